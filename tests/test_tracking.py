"""Runs, on a real MLflow server and on the local database that is the default."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from pipeline import mlflow_store, tracking
from pipeline.core.params import UserError
from tests.stores import PARAMS

pytestmark = pytest.mark.slow


def test_a_run_holds_all_that_was_recorded(store: str, tmp_path: Path) -> None:
    assert mlflow_store.uri() == store
    Path("dvc.lock").write_text("locked")
    folder = tmp_path / "plots"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    run = tracking.start("train-1", {"stage": "train"})
    run.params({"train.lr": 0.1, "data.path": None, "long": "x" * 7000})
    run.params({"train.lr": 0.1})
    run.metrics({"loss": 1.5}, 0)
    run.metrics({"loss": 0.5, "accuracy": 1}, 1)
    run.tags({"verdict": "promoted"})
    run.data("mnist", "d" * 64, "data/augment", "training")
    run.files(folder, "plots")
    run.files(tmp_path / "b.txt")
    run.finish()

    found = mlflow_store.client().get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "train-1"
    assert found.data.params == {"train.lr": "0.1", "data.path": "None", "long": "x" * 6000}
    assert found.data.metrics == {"loss": 0.5, "accuracy": 1.0}
    history = mlflow_store.client().get_metric_history(run.id, "loss")
    assert [(entry.step, entry.value) for entry in history] == [(0, 1.5), (1, 0.5)]
    tags = found.data.tags
    assert (tags["stage"], tags["verdict"]) == ("train", "promoted")
    assert tags["dvc.lock.sha256"] == hashlib.sha256(b"locked").hexdigest()
    assert tags["mlflow.source.git.commit"] == "none", "the project of this test is in no repository"
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest, used.dataset.source) == (
        "mnist",
        "d" * 36,
        "data/augment",
    )
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert mlflow_store.download(f"runs:/{run.id}/plots/a.txt", tmp_path / "got").read_text() == "one"
    assert mlflow_store.download(f"runs:/{run.id}/b.txt", tmp_path / "got").read_text() == "two"
    experiment = mlflow_store.client().get_experiment(found.info.experiment_id)
    assert experiment.name == "digits"
    assert experiment.artifact_location.startswith(
        "mlflow-artifacts:" if store.startswith("http") else "file://"
    )


def test_system_metrics_are_sampled_while_a_block_runs(store: str) -> None:
    run = tracking.start("sampled", {})
    with tracking.recording(run):
        time.sleep(1.5)
    found = mlflow_store.client().get_run(run.id)
    assert found.info.status == "RUNNING", "who recorded may go on; finish() closes"
    assert 0 <= found.data.metrics["system/cpu_utilization_percentage"] <= 100
    assert found.data.metrics["system/system_memory_usage_megabytes"] > 100
    assert len(mlflow_store.client().get_metric_history(run.id, "system/cpu_utilization_percentage")) >= 2


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_whose_block_ends_badly_says_so(error: type[BaseException], status: str, store: str) -> None:
    run = tracking.start("ends badly", {})
    with pytest.raises(error), tracking.recording(run):
        raise error
    assert mlflow_store.client().get_run(run.id).info.status == status


def test_trials_are_children_of_their_study(store: str) -> None:
    parent = tracking.start("tune", {})
    children = {tracking.start(f"trial-{number}", {}, parent).id for number in range(2)}
    query = f"tags.mlflow.parentRunId = '{parent.id}'"
    found = mlflow_store.client().search_runs([mlflow_store.experiment_id()], query)
    assert {run.info.run_id for run in found} == children


def test_attaching_to_a_run_that_the_store_does_not_hold_names_the_store(store: str) -> None:
    run = tracking.start("kept", {})
    assert tracking.attach(run.id) == run
    for gone in ("0" * 32, "no such id"):
        with pytest.raises(UserError) as told:
            tracking.attach(gone)
        assert store in str(told.value)
        assert gone in str(told.value)
        assert "dvc repro -f -s train" in str(told.value)
    mlflow_store.client().delete_run(run.id)
    with pytest.raises(UserError, match="does not know run"):
        tracking.attach(run.id)


def test_a_deleted_experiment_is_told(store: str) -> None:
    Path("params.yaml").write_text(PARAMS.replace("{", "{experiment: deleted, "))
    os.utime("params.yaml", (1, 1))
    mlflow_store.client().delete_experiment(mlflow_store.experiment_id())
    with pytest.raises(
        UserError, match=r"the MLflow experiment 'deleted' is deleted; restore it or set tracking"
    ):
        tracking.start("x", {})


def test_a_store_s_file_that_is_none_is_told_before_mlflow_tries_for_minutes(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}")
    with pytest.raises(UserError, match=r"tracking\.uri .*is a folder; expected sqlite:///FILE"):
        mlflow_store.check_reachable()
    (tmp_path / "text").write_text("no database\n" * 99)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/text")
    with pytest.raises(UserError, match=r"'.*text' cannot be used: file is not a database"):
        mlflow_store.check_reachable()
