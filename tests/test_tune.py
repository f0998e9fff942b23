"""The tuning stage: studies are resumed, never restarted, and `params.yaml` stays as it is."""

from __future__ import annotations

import csv
from pathlib import Path

import optuna
import psutil
import pytest
import yaml

from pipeline.tuning.holding import HELD, machine
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


def test_a_study_that_is_searched_from_another_folder_is_refused(other: Road) -> None:
    study = find(other)
    me = psutil.Process()
    study.set_user_attr(HELD, [machine(), me.pid, me.create_time(), 1.0, 0])
    other.set({"tune": {"trials": 3}})
    before = other.digest("data/tune")
    done = other.run("python", "-m", "pipeline.tune", check=False)
    assert done.returncode == 1
    assert (
        f"tune: the study '{study.study_name}' is searched by process {me.pid} of this machine" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert len(study.get_trials()) == 2
    assert other.digest("data/tune") == before


def find(road: Road) -> optuna.Study:
    """The study of a road."""
    storage = f"sqlite:///{road.folder}/.fairlead/studies.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


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
