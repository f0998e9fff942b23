"""Makes the README's pictures from a finished road: `python docs/pictures.py` after `make repro`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import matplotlib as mpl
import yaml
from matplotlib.figure import Figure
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


def chromium() -> str | None:
    """The browser, where one is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def browser_page(width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page in a headless Chromium with a fresh profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(QUIET))
        try:
            yield browser.new_page(viewport={"width": width, "height": height})
        finally:
            browser.close()


@contextmanager
def mlflow_ui(folder: Path, port: int) -> Iterator[str]:
    """MLflow on a road's store while the block runs; gives its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "ui", "--port", str(port)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{address}/health").raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline, "MLflow did not start"
                time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


def dag(path: Path, project: Path = Path()) -> None:
    """Draw the stages of `dvc.yaml` with what each hands on."""
    mpl.use("agg")
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    outs = {
        name: [next(iter(out)) for out in stage.get("outs", []) + stage.get("metrics", [])]
        for name, stage in stages.items()
    }
    at = {name: (number % 5, -(number // 5)) for number, name in enumerate(stages)}
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.add_subplot(xlim=(-0.6, 4.6), ylim=(-1.5, 0.55))
    axes.set_axis_off()
    for name, stage in stages.items():
        for other, made in outs.items():
            if other != name and any(dep.startswith(out) for dep in stage["deps"] for out in made):
                curve = "arc3,rad=0.18" if at[other][1] == at[name][1] else "arc3,rad=-0.08"
                arrow = {
                    "arrowstyle": "-|>",
                    "color": "#9aa7b8",
                    "connectionstyle": curve,
                    "shrinkA": 30,
                    "shrinkB": 30,
                }
                axes.annotate("", at[name], at[other], arrowprops=arrow)
    for name, (x, y) in at.items():
        box = {"boxstyle": "round,pad=0.6", "facecolor": "#2563a8", "edgecolor": "none"}
        axes.text(
            x, y, name, ha="center", va="center", color="white", fontsize=13, fontweight="bold", bbox=box
        )
        text = "\n".join(out.removeprefix(f"data/{name}/") for out in outs[name])
        under = {"boxstyle": "square,pad=0.2", "facecolor": "white", "edgecolor": "none"}
        axes.text(x, y - 0.2, text, ha="center", va="top", fontsize=8, color="#5c6878", bbox=under)
    figure.savefig(path, dpi=110)


def open_run(page: Page, address: str, run_id: str, tab: str) -> None:
    """Open a tab of a run in MLflow's UI."""
    found = httpx.get(f"{address}/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()
    experiment = found["run"]["info"]["experiment_id"]
    page.goto(f"{address}/#/experiments/{experiment}/runs/{run_id}/{tab}?workflowType=machine_learning")


def main() -> None:
    """Draw the DAG, and photograph the MLflow run and the report."""
    from serving.inputs.spec import read_json

    IMAGES.mkdir(exist_ok=True)
    dag(IMAGES / "dag.png")
    run_id = read_json(Path("data/promote/receipt.json"))["run_id"]
    with browser_page(1150, 1300) as page:
        page.goto(Path("data/promote/report.html").resolve().as_uri())
        page.screenshot(path=IMAGES / "report.png")
    with mlflow_ui(Path.cwd(), 5017) as address, browser_page(1400, 900) as page:
        open_run(page, address, run_id, "model-metrics")
        page.get_by_text("val_loss").first.wait_for()
        page.locator("svg.main-svg").first.wait_for()
        page.keyboard.press("Escape")
        page.wait_for_timeout(2000)
        page.screenshot(path=IMAGES / "mlflow.png")


if __name__ == "__main__":
    main()
