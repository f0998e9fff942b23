"""Studies and runs in a real PostgreSQL, which is restarted under them, dies, and refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from pipeline import mlflow_store, tracking
from pipeline.core import patience
from pipeline.core.params import UserError
from pipeline.tuning.settings import Tune
from pipeline.tuning.storage import opened
from pipeline.tuning.study import open_study
from tests import postgres
from tests.postgres import PASSWORD, Postgres
from tests.stores import PARAMS, forget, free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres.running() as server:
        yield server


@pytest.fixture
def runs(database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A project whose runs are written to PostgreSQL directly."""
    address = database.address("runs")
    (tmp_path / "params.yaml").write_text(f"{PARAMS.rstrip()}\ntune: {{}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    forget()
    yield address
    forget()


def restarted(database: Postgres) -> None:
    """Stop, and start a second later."""
    database.stop()
    threading.Timer(1, database.start).start()


def test_studies_and_runs_outlive_a_restart_of_their_database(
    database: Postgres, runs: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAIRLEAD_STUDIES", database.address("studies"))
    study = open_study(mlflow_store.studies(), "one", Tune())
    run = tracking.start("tune", {"stage": "tune"})
    for number in range(4):
        trial = study.ask()
        value = trial.suggest_float("x", 0, 1)
        if number == 1:
            restarted(database)
        trial.report(value, 1)
        run.metrics({"val_loss": value}, number)
        if number == 2:
            restarted(database)
        run.tags({"last": str(number)})
        study.tell(trial, value)
    run.finish()
    again = open_study(mlflow_store.studies(), "one", Tune())
    assert [trial.state.name for trial in again.get_trials()] == ["COMPLETE"] * 4
    history = mlflow_store.client().get_metric_history(run.id, "val_loss")
    assert [each.value for each in history] == [trial.value for trial in again.get_trials()]
    assert mlflow_store.client().get_run(run.id).data.tags["last"] == "3"
    said = capfd.readouterr().err
    assert "does not answer" in said
    assert PASSWORD not in said
    assert "Traceback" not in said


def test_the_end_of_a_trial_that_was_stored_before_the_connection_broke_is_no_error(
    database: Postgres,
) -> None:
    study = optuna.create_study(storage=opened(database.address("studies")))
    trial = study.ask()
    study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.COMPLETE, [1.0])
    assert study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.COMPLETE, [1.0])
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)


def test_a_database_that_refuses_or_is_dead_is_told_without_its_password(
    database: Postgres, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = database.address("studies")
    study = open_study(address, "two", Tune())
    run = tracking.start("tune", {})
    wrong = address.replace("/studies", "/none")
    for given, said in (
        (wrong, 'cannot be opened: database "none" does not exist'),
        (address.replace("me:", "you:"), "cannot be opened: password authentication failed"),
        ("postgresql+no://a:b@c/d", "Can't load plugin"),
        ("nonsense", "Could not parse"),
    ):
        with pytest.raises(UserError, match=said) as error:
            opened(given)
        assert PASSWORD not in str(error.value)
    monkeypatch.setattr(patience, "RUNNING", 1.0)
    monkeypatch.setattr(patience, "OPENING", 1.0)
    database.stop()
    for call in (study.ask, lambda: run.metrics({"a": 1.0}), lambda: opened(address)):
        with pytest.raises(UserError, match=r"does not answer for 1 s .*what is finished is kept") as error:
            call()
        assert "me:***@" in str(error.value)
        assert PASSWORD not in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+pg8000://me:x@127.0.0.1:{free_port()}/runs")
    with pytest.raises(
        UserError, match=r"MLflow's database at .*me:\*\*\*@.* does not answer .*nothing is lost"
    ):
        mlflow_store.check_reachable()
    database.start()
    assert [trial.state.name for trial in study.get_trials()] == []
