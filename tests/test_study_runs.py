"""Each trial has exactly one run in MLflow, below one run of its study, whatever was killed when."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline import mlflow_store, tracking, tune
from pipeline.fitting.compute import Compute
from pipeline.tracking import Run
from pipeline.tuning import children
from pipeline.tuning.children import Children
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.study import ended, open_study
from tests import madeup
from tests.madeup import EPOCHS
from tests.stores import PARAMS, forget
from tests.studies import NAME, SEED, dying, killed, settings

TUNE = settings(trials=5, sampler="random", pruner="none")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with no run yet."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db"
    )  # which MLflow keeps open by name
    monkeypatch.chdir(tmp_path)
    forget()
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")  # once, for all that are killed
    yield tmp_path
    forget()


def session() -> optuna.Study:
    """What a run of `tune` does with a study and MLflow."""
    study = open_study("sqlite:///studies.db", NAME, TUNE)
    run = tune.open_run(study, TUNE)
    plan = Plan(TUNE, (), SEED, Path("trials"), Compute(accelerator="cpu"))
    search = Coordinator(study, plan, lambda *told: logged.add(run, *told), madeup.work)
    logged = Children(study, search.curves)
    logged.catch_up(run)
    search.run()
    return study


def place(owner: Any, name: str, late: bool, when: Callable[..., bool]) -> Callable[[], None]:
    def run() -> None:
        dying(owner, name, when, late)
        session()

    return run


def test_every_trial_has_one_run(project: Path) -> None:
    def of(number: int) -> Callable[..., bool]:
        return lambda *given: bool(given[-2].number == number)

    seen: list[None] = []

    def third(*_: Any) -> bool:
        seen.append(None)
        return len(seen) == 3

    for kill in (
        place(
            optuna.Study, "set_user_attr", False, lambda _, key, __: key.startswith("run ")
        ),  # the run is begun
        place(children, "log_trial", False, of(0)),  # told, and no run
        place(Run, "params", False, lambda *_: True),  # a run, and nothing in it
        place(Run, "metrics", True, third),  # half of it
        place(Run, "finish", False, lambda *_: True),  # all of it, and not ended
        place(Children, "add", True, of(3)),
    ):
        killed(kill)
    study = session()
    runs = tracking.search("attributes.status != 'none'")
    parents = [run for run in runs if run.data.tags.get("stage") == "tune"]
    assert len(parents) == 1
    found = Run(parents[0].info.run_id).children()
    assert Counter(child.tags["trial"] for child in found) == Counter(map(str, range(5)))
    assert all(child.ended for child in found)
    assert len(runs) == 1 + 5
    for child in found:
        trial = ended(study)[int(child.tags["trial"])]
        curve = mlflow_store.client().get_metric_history(child.run.id, "val_loss")
        assert [point.value for point in curve] == list(trial.intermediate_values.values())
        whole = mlflow_store.client().get_metric_history(child.run.id, "epoch")
        assert [point.value for point in whole] == list(range(EPOCHS)), (
            "all that was reported, not the loss alone"
        )
    assert not list((project / "trials").glob("*.jsonl")), "what is logged is kept no longer"
    session()
    assert len(tracking.search("attributes.status != 'none'")) == 1 + 5
