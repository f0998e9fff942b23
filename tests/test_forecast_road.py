"""The whole road of a forecast by a recurrent network, on its recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.project import ROOT, Project
from tests.recipes import walk
from tests.road import Road

pytestmark = pytest.mark.slow
SMALL = {
    "data": {"stride": 8}, "model": {"width": 12}, "train": {"max_epochs": 12, "lr": 0.02, "batch_size": 32},
}  # fmt: skip


@pytest.fixture(scope="module")
def forecast(tmp_path_factory: pytest.TempPathFactory, runs: str) -> Project:
    return walk(tmp_path_factory.mktemp("forecast"), ROOT / "recipes" / "forecast.yaml", runs, SMALL)


def test_the_live_answers_are_those_that_were_evaluated(forecast: Project) -> None:
    receipt = forecast.json("data/promote/receipt.json")
    assert receipt["name"] == "forecast"
    same = {entry["backend"]: entry["same"] for entry in receipt["certified"]["comparisons"]}
    assert all(same.values())
    assert {"torchserve, golden requests", "torchserve, 4 connections", "onnx", "pt2", "eager"} <= same.keys()


def test_the_forecast_beats_the_naive_one(forecast: Project) -> None:
    compared = forecast.json("data/promote/receipt.json")["compared"]
    assert compared["over_trivial_baseline"]["value"] > 0
    assert forecast.json("data/evaluate/metrics.json")["mase"]["value"] < 1


def test_golden_answers_name_every_step(forecast: Project) -> None:
    requests = forecast.json("data/export/bundle/golden/golden.json")["requests"]
    assert all(list(request["values"]) == [f"data+{step}" for step in range(1, 9)] for request in requests)


def test_dvc_misses_none_of_the_plots(forecast: Project, tmp_path: Path) -> None:
    road = Road(tmp_path)
    shutil.copytree(forecast.folder / "data", tmp_path / "data", dirs_exist_ok=True)
    shown = road.run("dvc", "plots", "show")
    assert "failed" not in shown.stdout + shown.stderr
    assert "index.html" in shown.stdout
