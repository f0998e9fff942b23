"""Whole roads of tasks beside classification, on their recipes: anomalies, and forecasts by a recurrent network."""

from __future__ import annotations

import shutil

import pytest

from tests.road import SHRUNK, Road

pytestmark = pytest.mark.slow
SMALL = {
    "anomaly": {"train": {"max_epochs": 8}},
    "forecast": {
        "data": {"stride": 8}, "model": {"width": 12}, "train": {"max_epochs": 12, "lr": 0.02, "batch_size": 32},
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=list(SMALL))
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Road]:
    name = request.param
    road = Road(tmp_path_factory.mktemp(name))
    shutil.copy(road.folder / "recipes" / f"{name}.yaml", road.folder / "params.yaml")
    road.set(SHRUNK)
    road.set({"tune": {"trials": 0}, **SMALL[name]})
    road.make("repro")
    return name, road


def test_the_live_answers_are_those_that_were_evaluated(finished: tuple[str, Road]) -> None:
    name, road = finished
    receipt = road.json("data/promote/receipt.json")
    assert receipt["name"] == name
    same = {entry["backend"]: entry["same"] for entry in receipt["certified"]["comparisons"]}
    assert all(same.values())
    assert {"torchserve, golden requests", "torchserve, 8 connections", "onnx", "pt2", "eager"} <= same.keys()


def test_the_model_beats_what_is_trivial(finished: tuple[str, Road]) -> None:
    """One score for all, or the naive forecast."""
    name, road = finished
    receipt, metrics = road.json("data/promote/receipt.json"), road.json("data/evaluate/metrics.json")
    assert receipt["compared"]["over_trivial_baseline"]["value"] > 0
    if name == "anomaly":
        assert receipt["verdict"] == "promoted"
        assert metrics["roc_auc"]["value"] > 0.9
        assert metrics["false_alarms"]["value"] < 0.25
    else:
        assert metrics["mase"]["value"] < 1


def test_golden_answers_say_what_the_task_says(finished: tuple[str, Road]) -> None:
    name, road = finished
    requests = road.json("data/export/bundle/golden/golden.json")["requests"]
    if name == "anomaly":
        assert {request["anomaly"] for request in requests} == {True, False}
        assert all(request["anomaly"] == (request["score"] > 1) for request in requests)
    else:
        assert all(
            list(request["values"]) == [f"data+{step}" for step in range(1, 9)] for request in requests
        )
