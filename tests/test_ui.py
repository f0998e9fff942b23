"""What people look at, in a real browser: MLflow's UI on a road's store, and our own pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pictures import browser_page, chromium, dag, mlflow_ui, open_run
from serving.process import free_ports
from tests.road import Road

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def browser() -> None:
    """Chromium, installed from Debian's packages where that is possible."""
    if chromium() is None and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False, timeout=300)
        subprocess.run(
            ["apt-get", "install", "-qy", "chromium"], capture_output=True, check=False, timeout=600
        )
    if chromium() is None:
        warnings.warn("NO BROWSER: Chromium cannot be installed here, so no page is looked at", stacklevel=1)
        pytest.skip("NO BROWSER: install chromium to run these tests")


@pytest.fixture(scope="module")
def address(road: Road) -> Iterator[str]:
    with mlflow_ui(road.folder, free_ports()["inference_port"]) as address:
        yield address


def test_mlflow_shows_the_run_its_curves_and_its_picture(road: Road, address: str) -> None:
    run_id = road.json("first.json")["run_id"]
    with browser_page(1400, 1000) as page:
        page.set_default_timeout(60_000)
        open_run(page, address, run_id, "")
        page.get_by_text("train.lr", exact=True).first.wait_for()
        page.get_by_text("mlflow.source.git.commit").or_(page.get_by_text("dvc.lock.sha256")).first.wait_for()
        open_run(page, address, run_id, "model-metrics")
        page.get_by_placeholder("Search metric charts").fill("val_loss")
        page.get_by_text("val_loss").first.wait_for()
        page.locator(".js-plotly-plot svg").first.wait_for()
        assert page.locator(".js-plotly-plot svg .trace").count() >= 1
        open_run(page, address, run_id, "artifacts/plots/confusion.png")
        picture = page.locator("img[src^='blob:'], img[src*='confusion'], img[src^='data:image/png']").first
        picture.wait_for()
        page.wait_for_function("e => e.naturalWidth > 100", arg=picture.element_handle())


def test_our_pages_render_their_pictures(road: Road) -> None:
    for name, words in (
        (
            "data/promote/report.html",
            ["Test metrics", "promoted", "The live server against the evaluated model"],
        ),
        ("data/validate/index.html", ["Samples of each class", "Findings"]),
    ):
        with browser_page() as page:
            problems: list[str] = []
            page.on("pageerror", lambda error, seen=problems: seen.append(str(error)))
            page.on("requestfailed", lambda request, seen=problems: seen.append(request.url[:80]))
            page.goto((road.folder / name).as_uri())
            for word in words:
                page.get_by_text(word).first.wait_for(timeout=5000)
            broken = page.eval_on_selector_all("img", "all => all.filter(i => !i.naturalWidth).length")
            assert page.locator("img").count() >= 5
            assert broken == 0
            assert problems == []


def test_the_dag_is_drawn_from_dvc_yaml(tmp_path: Path) -> None:
    dag(tmp_path / "dag.png")
    assert (tmp_path / "dag.png").stat().st_size > 20_000
