"""A worse model does not replace a better one, and history stays as it was."""

from __future__ import annotations

import sqlite3
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from pipeline import promote
from tests.recipes import STAGES, standing_in
from tests.road import Road

pytestmark = pytest.mark.slow


def test_a_worse_model_changes_the_verdict_but_not_history(road: Road, tmp_path: Path) -> None:
    road = road.copy(tmp_path / "road")
    before = road.json("data/promote/receipt.json")
    road.set({"train": {"max_epochs": 1, "lr": 1e-5}, "tune": {"trials": 0}})
    with standing_in(road.folder, "sqlite:///mlflow.db"):
        for stage in STAGES[STAGES.index("tune") :]:
            import_module(f"pipeline.{stage}").run()
    receipt = road.json("data/promote/receipt.json")
    assert receipt["verdict"] in ("rejected", "inconclusive"), receipt["reason"]
    assert receipt["champion_before"] == before["registry_version"]
    store = sqlite3.connect(road.folder / "mlflow.db")
    versions = store.execute("select version, description from model_versions order by version").fetchall()
    assert versions[0] == (1, before["reason"])
    alias = store.execute("select alias, version from registered_model_aliases").fetchall()
    assert alias == [("champion", int(before["registry_version"]))]


def test_judging_the_champion_again_changes_nothing(road: Road, tmp_path: Path) -> None:
    other = road.copy(tmp_path / "road")
    before = other.json("data/promote/receipt.json")
    with standing_in(other.folder, "sqlite:///mlflow.db"):
        promote.run()
    receipt = other.json("data/promote/receipt.json")
    assert receipt["verdict"] == "unchanged"
    assert receipt["registry_version"] == before["registry_version"]
    versions = (
        sqlite3.connect(other.folder / "mlflow.db").execute("select version from model_versions").fetchall()
    )
    assert versions == [(1,)]


def test_a_model_no_better_than_the_trivial_baseline_is_not_the_first_champion(
    road: Road, tmp_path: Path
) -> None:
    other = road.copy(tmp_path / "road")
    for file in ("mlflow.db",):
        with sqlite3.connect(other.folder / file) as store:
            store.execute("delete from registered_model_aliases")
    probabilities = np.load(other.folder / "data/evaluate/outputs.npy")
    np.save(other.folder / "data/evaluate/outputs.npy", np.random.default_rng(0).permutation(probabilities))
    with standing_in(other.folder, "sqlite:///mlflow.db"):
        promote.run()
    receipt = other.json("data/promote/receipt.json")
    assert receipt["verdict"] in ("inconclusive", "rejected")
    assert "the trivial baseline" in receipt["reason"]
    aliases = (
        sqlite3.connect(other.folder / "mlflow.db")
        .execute("select * from registered_model_aliases")
        .fetchall()
    )
    assert aliases == []
