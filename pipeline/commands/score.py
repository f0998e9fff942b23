"""Answer whole files without a server: `fairlead score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands.common import fail
from pipeline.core.params import PARAMS, UserError, section


def score(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="A table or long table (CSV, Parquet), .ts, .jsonl (a request a line), the file of one request, as an "
            "image, or a folder of such files.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the answers go: .parquet or .csv.")],
    version: Annotated[
        str, typer.Option(help="Registry number, digest or alias of the model; empty takes the champion.")
    ] = "",
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle, in place of a version.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Columns of IN to keep: a,b or again --keep b.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=1024, help="Processes; 0 is one a core.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first sample that is bad.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT, whatever it is.")] = False,
    text_column: Annotated[str, typer.Option(help="Column of texts; empty takes data.text_column.")] = "",
    series_id: Annotated[
        str, typer.Option(help="Column that names series; empty takes data.series_id.")
    ] = "",
    time: Annotated[str, typer.Option(help="Column that orders a series; empty takes data.time.")] = "",
    engine: Annotated[str, typer.Option(help="'local', or 'ray' for many machines.")] = "local",
    address: Annotated[str, typer.Option(help="Of the Ray cluster; empty starts one here.")] = "",
) -> None:
    """Answer every sample of IN with a model, without a server; a killed run goes on where it was."""
    from serving.inputs.spec import read_spec

    try:
        if engine not in ("local", "ray"):
            raise UserError(f"--engine: expected local or ray; found {engine!r}")
        if version and bundle is not None:
            raise UserError("--version and --bundle say both what model; give one")
        if address and engine != "ray":
            raise UserError("--address is of a Ray cluster; add --engine ray")
        folder = bundle if bundle is not None else _bundle(version)
        if not (folder / "bundle.json").is_file():
            raise UserError(f"--bundle: {folder} is no bundle; it has no bundle.json")
        columns = _columns(read_spec(folder).modality, text_column, series_id, time)
        columns["keep"] = tuple(
            name.strip() for each in keep or [] for name in each.split(",") if name.strip()
        )
        _score(path, out, folder, columns, strict, force, workers, address if engine == "ray" else None)
    except (UserError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from here")


def _score(path: Path, out: Path, folder: Path, columns: dict[str, Any], strict: bool, force: bool, workers: int,
           ray: str | None) -> None:  # fmt: skip
    from pipeline.score import cores, score
    from pipeline.score_plan import Asked

    asked = Asked(path, out, folder, columns, strict, force, workers or cores(), ray)
    done = score(asked, lambda step: typer.echo(step, err=True))
    bad = f"; {done['wrong']:,} could not be: {done['first_reason']}" if done["wrong"] else ""
    more = f" (and {done['wrong'] - 1:,} more: column 'error')" if done["wrong"] > 1 else ""
    typer.echo(f"{done['samples'] - done['wrong']:,} of {done['samples']:,} scored by {done['model']} version "
               f"{done['model_version']} into {out}{bad}{more}")  # fmt: skip


def _bundle(version: str) -> Path:
    from pipeline.core.project import Name
    from pipeline.registry import ALIAS
    from pipeline.versions import bundle_of, find

    return bundle_of(find(section("name", Name), version or ALIAS)[0])


def _columns(modality: str, text: str, series: str, time: str) -> dict[str, Any]:
    """The columns that play a part, as given or as params.yaml has them."""
    from pipeline.sources.base import Data

    data = section("data", Data) if PARAMS.exists() else Data()
    if modality == "text":
        return {"text": text or data.text_column}
    if modality == "series":
        return {"series": series or data.series_id, "time": time or data.time}
    return {}
