"""What `make repro` ends with: the metrics, the verdict, and where to look next."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.card import training_of
from pipeline.core.params import UserError, section
from pipeline.core.project import Name
from pipeline.core.stage import DATA
from pipeline.mlflow_store import ui_hint
from serving.inputs.spec import read_json
from serving.settings import ServerSettings

COLOURS = {"promoted": "green", "unchanged": "green", "inconclusive": "yellow", "rejected": "red"}


def show() -> None:
    """Print the summary of the last whole run.

    Raises:
        UserError: the road was not run to its end yet.
    """
    receipt_path = DATA / "promote" / "receipt.json"
    if not receipt_path.exists():
        raise UserError("nothing was promoted yet; 'make repro' runs the whole road")
    receipt, metrics = read_json(receipt_path), read_json(DATA / "evaluate" / "metrics.json")
    console = Console(highlight=False)
    table = Table(
        title=f"{receipt['name']}, version {receipt['model_version']}: {metrics['samples']} test samples"
    )
    for column in ("metric", "value", "interval"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, entry in metrics.items():
        if isinstance(entry, dict) and "value" in entry:
            table.add_row(
                name.replace("_", " "), f"{entry['value']:.4f}", f"{entry['low']:.4f} to {entry['high']:.4f}"
            )
    console.print(table)
    verdict = receipt["verdict"]
    console.print(f"[bold {COLOURS[verdict]}]{verdict}[/]: {receipt['reason']}", soft_wrap=True)
    if families := read_json(DATA / "train" / "run.json").get("families"):
        told = (f"{name} {entry['best']:.4f}" if entry["best"] is not None else f"{name} unfinished"
                for name, entry in families.items())  # fmt: skip
        console.print(f"families compared by validation loss: {', '.join(told)}", soft_wrap=True)
    if finals := read_json(DATA / "train" / "run.json").get("finals"):
        console.print(f"tuning: {finals['told']}", soft_wrap=True)
    if nested := read_json(DATA / "train" / "run.json").get("nested"):
        ends = (
            f"{name} {each['value']:.4f} ({each['low']:.4f} to {each['high']:.4f})"
            for name, each in nested.items()
        )
        console.print(f"nested estimate: {', '.join(ends)}", soft_wrap=True)
    for what, said in training_of(read_json(DATA / "train" / "run.json")).items():
        console.print(f"{what.lower()}: {said}", soft_wrap=True)
    server, name = section("server", ServerSettings), section("name", Name)
    lines = {
        "report": Path(DATA / "promote" / "report.html").resolve().as_uri(),
        "data": Path(DATA / "validate" / "index.html").resolve().as_uri(),
        "MLflow": f"{ui_hint()}, run {receipt['run_id']}",
        "endpoint": f"make serve  (POST http://{server.host}:{server.inference_port}/predictions/{name})"
        if receipt["champion_before"] or verdict == "promoted"
        else "none yet: nothing is served before a first model is promoted",
        "compare": "dvc metrics diff, dvc exp show, dvc plots show",
    }
    for key, value in lines.items():
        console.print(f"  {key:9} {value}", soft_wrap=True)
