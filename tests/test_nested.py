"""The nested estimate: each fold is held out from a search of its own, which goes on after a kill."""

from __future__ import annotations

import csv
import doctest
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from scipy import stats

from models.params import Model
from pipeline import augment, mlflow_store, prepare, tracking, tune
from pipeline.core.dataset import Dataset, numbered
from pipeline.core.params import UserError, section
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Train, fit
from pipeline.fitting.job import make_job
from pipeline.tuning import nested
from pipeline.tuning.folded import fold_jobs
from pipeline.tuning.settings import Tune
from pipeline.tuning.storage import opened
from pipeline.tuning.trial import METRIC, settled
from tests.conftest import ROOT
from tests.folding import FOLDS as FOLDERS
from tests.folding import laid
from tests.project import Project
from tests.recipes import standing_in
from tests.small import blobs, table_spec

FOLDS = 3
OUTPUT = Path("data/tune")
SPACE = {"train.lr": {"choices": [0.0001, 0.02]}, "model.dropout": {"low": 0.0, "high": 0.4}}
CHANGES: dict[str, Any] = {
    "prepare": {"folds": {"number": FOLDS, "scheme": "auto", "inner": 2}},
    "augment": {"factor": 1},
    "model": {"family": "fnn", "width": 8, "depth": 1},
    "train": {"batch_size": 32, "lr": 0.02, "augmentation": {"strength": 0.0}},
    "tune": {
        "nested": True,
        "trials": 2,
        "max_epochs": 2,
        "pruner": "none",
        "space": SPACE,
        "minutes": 60,
        "top": 1,
    },
    "compute": {"accelerator": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, runs: str) -> tuple[Project, str]:
    """A project whose tuning was stopped when it began with the second fold, and then went on to its end."""
    project = Project(tmp_path_factory.mktemp("nested"))
    (project.folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    project.set(CHANGES)
    with standing_in(project.folder, runs):
        laid(project.folder, table_spec(["number"] * 4), *blobs(240, 0))
        prepare.run()
        augment.run()
        begun: list[str] = []

        def stop(settings: Any, jobs: Any) -> Any:
            study = tune.find_study(settings, jobs)
            begun.append(study.study_name)
            if len(begun) == 2:
                raise KeyboardInterrupt
            return study

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nested, "estimate", lambda s, j, v, find, real=nested.estimate: real(s, j, v, stop))
            with pytest.raises(KeyboardInterrupt):
                tune.run()
        assert not OUTPUT.exists()
        first = trials_of(begun[0])
        tune.run()
        assert trials_of(begun[0]) == first, "what was finished is not searched again"
    return project, begun[0]


def trials_of(name: str) -> list[Any]:
    """When each trial of a study ended, and its value."""
    study = optuna.load_study(study_name=name, storage=opened(mlflow_store.studies()))
    return [(trial.datetime_complete, trial.value, trial.state) for trial in study.trials]


def test_each_fold_has_a_search_of_its_own(tuned: tuple[Project, str]) -> None:
    project, first = tuned
    found = project.json("data/tune/nested.json")
    studies = {each["study"] for each in found["outer"]}
    best = yaml.safe_load((project.folder / "data/tune/best.yaml").read_text())
    assert [each["fold"] for each in found["outer"]] == list(range(FOLDS))
    assert len(studies | {best["study"]}) == FOLDS + 1
    assert first in studies
    losses = [each["val_loss"] for each in found["outer"]]
    assert found["val_loss"]["value"] == pytest.approx(sum(losses) / FOLDS)
    share = np.mean(
        [
            len(Dataset(fold / "val")) / len(Dataset(fold / "train"))
            for fold in numbered(project.folder / FOLDERS)
        ]
    )
    half = stats.t.ppf(0.975, FOLDS - 1) * np.sqrt((1 / FOLDS + share) * np.var(losses, ddof=1))
    assert found["val_loss"]["high"] - found["val_loss"]["value"] == pytest.approx(half)
    assert best["nested"] == {name: found[name] for name in ("val_loss", "val_score")}
    assert found["search"] == best["val_loss"]


def test_the_spread_over_folds_is_in_the_table_and_with_each_run(
    tuned: tuple[Project, str], runs: str
) -> None:
    project, _ = tuned
    with (project.folder / "data/tune/trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["folds"] for row in rows] == [str(FOLDS)] * 2
    study = yaml.safe_load((project.folder / "data/tune/best.yaml").read_text())["study"]
    with standing_in(project.folder, runs):
        (run,) = tracking.search(f"tags.study = '{study}'")
        children = tracking.search(f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    kept = {child.data.tags["trial"]: child.data.metrics for child in children}
    for row in rows:
        assert kept[row["trial"]]["val_loss"] == pytest.approx(float(row["val_loss"]))
        assert kept[row["trial"]]["val_loss_spread"] == pytest.approx(float(row["val_loss_spread"]))


def test_the_winner_is_fitted_on_its_fold_and_judged_on_what_that_holds_out(
    tuned: tuple[Project, str], runs: str
) -> None:
    project, _ = tuned
    found = project.json("data/tune/nested.json")["outer"][1]
    with standing_in(project.folder, runs):
        settings = section("tune", Tune)
        train = section("train", Train).model_copy(update={"max_epochs": 2, "patience": 0})
        job = make_job(section("model", Model), train, 7, section("compute", Compute))
        outer = fold_jobs(job)[1]
        assert outer.train_folder == Path("data/augment/folds/1")
        assert len(Dataset(outer.val_folder)) + len(Dataset(outer.train_folder)) > 180
        told: list[dict[str, float]] = []
        fit(settled(outer, found["values"], settings.space), [lambda epoch, metrics: told.append(metrics)])
    assert told[-1][METRIC] == pytest.approx(found["val_loss"], rel=1e-6)
    assert told[-1]["val_score"] == pytest.approx(found["val_score"], rel=1e-6)


def test_a_finished_estimate_is_given_again_without_fitting(
    tuned: tuple[Project, str], runs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project, _ = tuned
    before = project.digest("data/tune/nested.json")
    monkeypatch.setattr(nested, "_judged", None)
    with standing_in(project.folder, runs):
        tune.run()
    assert project.digest("data/tune/nested.json") == before
    told = capsys.readouterr().out
    assert (
        "tune: the nested estimate searches anew in each of 3 folds: at most 3 x (2 trials x 2 inner folds + 1) x 2 "
        "epochs = 30 epochs, beside 12 of the search itself"
    ) in told
    assert "tune: nested estimate of val_loss 0." in told


@pytest.mark.parametrize(
    ("folds", "missing"),
    [
        ({"number": 2, "inner": 0}, "prepare.folds.inner"),
        ({"number": 0, "inner": 0}, "prepare.folds.number and"),
    ],
)
def test_it_is_refused_without_folds_within_folds(
    tuned: tuple[Project, str], runs: str, tmp_path: Path, folds: dict[str, int], missing: str
) -> None:
    project = Project(tmp_path)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    project.set({**CHANGES, "prepare": {"folds": {"scheme": "auto", **folds}}})
    with standing_in(tmp_path, runs):
        laid(tmp_path, table_spec(["number"] * 4), *blobs(240, 0))
        prepare.run()
        augment.run()
        with pytest.raises(UserError, match=f"there are none; set {missing}"):
            tune.run()


def test_the_examples_hold() -> None:
    assert doctest.testmod(nested).attempted
    assert doctest.testmod(nested).failed == 0
