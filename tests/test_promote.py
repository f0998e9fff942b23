"""A worse model does not replace a better one, and history stays as it was."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tests.road import Road

pytestmark = pytest.mark.slow


def test_experiments_change_the_verdict_but_not_history(road: Road, tmp_path: Path) -> None:
    road = road.copy(tmp_path / "road")
    before = road.json("data/promote/receipt.json")
    done = road.run(
        "dvc", "exp", "run", "-S", "train.max_epochs=1", "-S", "train.lr=1e-5", "-S", "tune.trials=0"
    )
    receipt = road.json("data/promote/receipt.json")
    assert receipt["verdict"] in ("rejected", "inconclusive"), done.stdout
    assert receipt["champion_before"] == before["registry_version"]
    store = sqlite3.connect(road.folder / "mlflow.db")
    versions = store.execute("select version, description from model_versions order by version").fetchall()
    assert versions[0] == (1, before["reason"])
    alias = store.execute("select alias, version from registered_model_aliases").fetchall()
    assert alias == [("champion", int(before["registry_version"]))]
    shown = road.run("dvc", "exp", "show", "--csv").stdout
    assert "accuracy" in shown
    assert "1e-05" in shown
    changed = json.loads(road.run("dvc", "metrics", "diff", "--json").stdout)
    assert changed["data/evaluate/metrics.json"]["accuracy.value"]["diff"] < 0


def test_judging_the_champion_again_changes_nothing(road: Road, tmp_path: Path) -> None:
    other = road.copy(tmp_path / "road")
    before = other.json("data/promote/receipt.json")
    other.run("python", "-m", "pipeline.promote")
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
    other.run("python", "-m", "pipeline.promote")
    receipt = other.json("data/promote/receipt.json")
    assert receipt["verdict"] in ("inconclusive", "rejected")
    assert "the trivial baseline" in receipt["reason"]
    aliases = (
        sqlite3.connect(other.folder / "mlflow.db")
        .execute("select * from registered_model_aliases")
        .fetchall()
    )
    assert aliases == []
