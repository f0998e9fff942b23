"""Every recipe walks the whole road, shrunk, to a certified answer of a real TorchServe with raw input of its kind.

Recipes with a test file of their own, which asks more, are walked there.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.project import ROOT, Project
from tests.recipes import walk

pytestmark = pytest.mark.slow
ELSEWHERE = {"mnist": "road", "loanapp": "table_road", "vowels": "series_road", "forecast": "forecast_road",
             "reviews": "text_road", "reviews-transfer": "minilm_road", "images-transfer": "transfer_road",
             "gan": "gan_road"}  # fmt: skip
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "anomaly": {"train": {"max_epochs": 8}},
    "diamonds": {"prepare": {"val": 0.4, "test": 0.4}, "model": {"width": 32}},
    "plaid": {"model": {"width": 4, "depth": 2}, "train": {"max_epochs": 4, "lr": 0.01}},
}
BRIEF = {"plaid": ["inconclusive"]}  # too short a training to tell it from guessing
ASKED = {
    "anomaly": {"image/png", "application/json"},
    "diamonds": {"application/json", "text/csv"},
    "plaid": {"application/json", "text/csv"},
}


def test_every_recipe_is_walked_somewhere() -> None:
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert recipes == CHANGES.keys() | ELSEWHERE.keys()
    assert CHANGES.keys() == ASKED.keys()
    for name, file in ELSEWHERE.items():
        assert name == "mnist" or f'"{name}.yaml"' in (ROOT / "tests" / f"test_{file}.py").read_text()


@pytest.fixture(scope="module", params=sorted(CHANGES))
def walked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, runs: str) -> Project:
    name = request.param
    return walk(tmp_path_factory.mktemp(name), ROOT / "recipes" / f"{name}.yaml", runs, CHANGES[name])


def test_the_live_answers_are_those_that_were_evaluated(walked: Project) -> None:
    receipt = walked.json("data/promote/receipt.json")
    same = {entry["backend"]: entry["same"] for entry in receipt["certified"]["comparisons"]}
    assert all(same.values())
    assert {"torchserve, golden requests", "torchserve, 4 connections", "onnx", "pt2", "eager"} <= same.keys()
    assert receipt["verdict"] in ("promoted", *BRIEF.get(receipt["name"], ())), receipt["reason"]
    requests = walked.json("data/export/bundle/golden/golden.json")["requests"]
    assert {request["content_type"] for request in requests} == ASKED[receipt["name"]]
