"""The tuning stage: studies are resumed, never restarted, and `params.yaml` stays as it is."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from tests.road import Road

pytestmark = pytest.mark.slow


@pytest.fixture
def other(road: Road, tmp_path: Path) -> Road:
    return road.copy(tmp_path / "road")


def trials(road: Road) -> list[dict[str, str]]:
    with (road.folder / "data/tune/trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_finished_study_is_not_run_again(other: Road) -> None:
    before = trials(other)
    done = other.run("python", "-m", "pipeline.tune")
    assert "tune: 2 trials" in done.stdout
    assert trials(other) == before


def test_more_trials_go_on_with_the_study(other: Road) -> None:
    before, given = trials(other), (other.folder / "params.yaml").read_text()
    other.set({"tune": {"trials": 3}})
    other.run("python", "-m", "pipeline.tune")
    after = trials(other)
    assert after[:2] == before
    assert len(after) == 3
    other.set({"tune": {"trials": 2}})
    assert yaml.safe_load((other.folder / "params.yaml").read_text()) == yaml.safe_load(given)
    best = yaml.safe_load((other.folder / "data/tune/best.yaml").read_text())
    losses = [float(row["val_loss"]) for row in after if row["state"] == "complete"]
    assert best["val_loss"] == pytest.approx(min(losses))


def test_the_given_values_are_the_first_trial(other: Road) -> None:
    params = yaml.safe_load((other.folder / "params.yaml").read_text())
    first = trials(other)[0]
    assert float(first["train.lr"]) == params["train"]["lr"]
    assert int(first["model.width"]) == params["model"]["width"]


def test_no_trials_means_the_given_values(other: Road) -> None:
    other.set({"tune": {"trials": 0}})
    other.run("python", "-m", "pipeline.tune")
    assert yaml.safe_load((other.folder / "data/tune/best.yaml").read_text()) == {"params": {}, "trials": 0}
