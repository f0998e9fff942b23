"""Experiment tracking: the only file that imports mlflow (and only when it is used)."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from pipeline.core.params import Section, UserError, section
from pipeline.core.patience import patiently, shown
from pipeline.core.project import Name
from pipeline.origin import lineage as lineage  # tags of every run

if TYPE_CHECKING:
    from mlflow import MlflowClient


R = TypeVar("R")
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
NEEDED = ("numpy", "onnxruntime", "pandas", "pillow", "pydantic", "tokenizers")  # by `serving/`, to answer


class Tracking(Section):
    """The `tracking` section; it changes no result and invalidates no stage."""

    uri: str = Field(
        "sqlite:///mlflow.db", description="MLflow's store; the variable MLFLOW_TRACKING_URI wins over it."
    )
    artifacts: str = Field(
        "mlartifacts", description="Folder or URL for artifacts where the store is a local database."
    )
    experiment: str = Field("", description="Experiment; empty takes the project's name.")
    studies: str = Field(
        "sqlite:///.fairlead/studies.db", description="Where Optuna keeps its studies, so that they resume."
    )
    country: str = Field(
        "",
        pattern=r"^([A-Z]{3})?$",
        description="Where the energy comes from, as three letters (ISO 3166: FRA); empty: the world's mean.",
    )
    system_metrics_seconds: float = Field(
        2.0, gt=0, le=600, description="Seconds between samples of CPU, memory and GPU use."
    )


def uri() -> str:
    """The tracking URI in force."""
    return os.environ.get("MLFLOW_TRACKING_URI") or section("tracking", Tracking).uri


def place() -> str:
    """The tracking URI in force as messages name it, without a password."""
    return shown(uri())


def studies() -> str:
    """Where Optuna keeps studies; FAIRLEAD_STUDIES wins, so that a password need not stand in a file."""
    return os.environ.get("FAIRLEAD_STUDIES") or section("tracking", Tracking).studies


def check_reachable() -> None:
    """Fail early and clearly when a tracking server does not answer, before any computing is spent."""
    import httpx

    address = uri()
    if not address.startswith(("http://", "https://")):
        if "://" in address and not address.startswith(("sqlite:", "file:", "databricks")):
            check_database(address)
        return
    try:
        httpx.get(f"{address.rstrip('/')}/health", timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        raise UserError(
            f"the MLflow server at {address} does not answer ({error}); start it, or unset "
            "MLFLOW_TRACKING_URI to use the local database. Nothing was run and nothing is lost"
        ) from None


def check_database(address: str) -> None:
    """As `check_reachable`, of a database that is written to directly: MLflow itself tries for minutes."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        place = make_url(address)
        if place.host:
            socket.create_connection(
                (place.host, place.port or PORTS.get(place.get_backend_name(), 0)), 5
            ).close()
    except (ArgumentError, OSError, ValueError) as error:
        raise UserError(
            f"MLflow's database at {shown(address)} does not answer ({error}); start it, or mend tracking.uri or "
            "MLFLOW_TRACKING_URI. Nothing was run and nothing is lost"
        ) from None


def asked(call: Callable[[MlflowClient], R]) -> R:
    """What the store answers; one that is a database is waited for where it is away for a while."""
    return patiently(lambda: call(client()), f"the MLflow store {place()}")


@cache
def client() -> MlflowClient:
    """The MLflow client on the store in force; a server is checked first, so that a dead one fails fast."""
    check_reachable()
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri())
    return mlflow.MlflowClient()


def store_error() -> type[Exception]:
    """What MLflow raises when a store refuses or does not answer."""
    from mlflow.exceptions import MlflowException

    return MlflowException


def missing(error: Exception) -> bool:
    """True where the store answered that it does not hold what was asked for."""
    return getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def download(artifact: str, folder: Path) -> Path:
    """Fetch an artifact, by its URI, into `folder`.

    Raises:
        UserError: the store does not hold it, or does not answer.
    """
    client()
    import mlflow

    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=artifact, dst_path=str(folder)))
    except (store_error(), OSError) as error:
        raise UserError(f"{artifact} cannot be fetched from the MLflow store {place()}: {error}") from None


def experiment_id() -> str:
    """The id of the project's experiment, made when it does not exist."""
    settings = section("tracking", Tracking)
    name = settings.experiment or section("name", Name)
    found = client().get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"the MLflow experiment '{name}' is deleted; restore it or set tracking.experiment"
            )
        return str(found.experiment_id)
    embedded = uri().startswith("sqlite:") and "://" not in settings.artifacts
    place = Path(settings.artifacts).absolute().as_uri() if embedded else None
    return str(client().create_experiment(name, place))


@dataclass(frozen=True)
class Run:
    """One MLflow run, written to by its id."""

    id: str

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; MLflow refuses to change one that was logged."""
        from mlflow.entities import Param

        logged = [Param(key, str(value)[:6000]) for key, value in values.items()]
        asked(lambda to: to.log_batch(self.id, params=logged))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics at a step (an epoch)."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        logged = [Metric(key, float(value), now, step) for key, value in values.items()]
        asked(lambda to: to.log_batch(self.id, logged))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        logged = [RunTag(key, str(value)) for key, value in values.items()]
        asked(lambda to: to.log_batch(self.id, tags=logged))

    def files(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or the files of a folder, as artifacts."""
        log = client().log_artifacts if path.is_dir() else client().log_artifact
        log(self.id, str(path), folder)

    def data(self, name: str, digest: str, source: str, context: str) -> None:
        """Record a data set and its digest as an input of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(name=name, digest=digest[:36], source_type="local", source=source)
        given = [DatasetInput(entity, [InputTag("mlflow.data.context", context)])]
        asked(lambda to: to.log_inputs(self.id, given))

    def exists(self) -> bool:
        """True where the store knows the run and it is not deleted."""
        try:
            return str(asked(lambda to: to.get_run(self.id)).info.lifecycle_stage) == "active"
        except store_error() as error:
            if missing(error):
                return False
            raise UserError(f"the MLflow store {place()} cannot be read: {error}") from None

    def children(self) -> list[Child]:
        """Its child runs, oldest first."""
        return [
            Child(Run(found.info.run_id), found.data.tags, found.info.status != "RUNNING")
            for found in search(f"tags.`mlflow.parentRunId` = '{self.id}'")
        ]

    def delete(self) -> None:
        """Delete the run; MLflow keeps it among the deleted."""
        asked(lambda to: to.delete_run(self.id))

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run."""
        asked(lambda to: to.set_terminated(self.id, status))


@dataclass(frozen=True)
class Child:
    """A child run, as a list of them shows it."""

    run: Run
    tags: dict[str, str]
    ended: bool


def search(condition: str) -> list[Any]:
    """The active runs of the project's experiment that meet a condition of MLflow's, oldest first."""
    found, token, where = [], None, experiment_id()
    while True:
        page = asked(
            lambda to, token=token: to.search_runs(  # type: ignore[misc]
                [where], condition, order_by=["attributes.start_time ASC"], page_token=token
            )
        )
        found += page
        token = page.token
        if not token:
            return found


def start(name: str, tags: Mapping[str, str], parent: Run | None = None) -> Run:
    """Create a run, with the commit and `dvc.lock` it came from as tags."""
    tags = {"mlflow.runName": name, **lineage(), **tags}
    if parent:
        tags["mlflow.parentRunId"] = parent.id
    made = asked(lambda to: to.create_run(experiment_id(), run_name=name, tags=tags))
    return Run(made.info.run_id)


@contextmanager
def recording(run: Run) -> Iterator[None]:
    """Sample system metrics into the run while the block runs; an error marks it failed."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    seconds = section("tracking", Tracking).system_metrics_seconds
    monitor = SystemMetricsMonitor(run.id, sampling_interval=seconds, samples_before_logging=1)
    monitor.start()
    try:
        yield
    except BaseException as error:
        run.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    finally:
        monitor.finish()


def attach(run_id: str) -> Run:
    """The run of the model that a later stage works on.

    Raises:
        UserError: the store in force does not know it.
    """
    run = Run(run_id)
    if not run.exists():
        raise UserError(
            f"the MLflow store {place()} does not know run {run_id} (was the store changed or emptied?); "
            "'dvc repro -f -s train' trains the model anew and logs it there"
        )
    return run


def log_model(run: Run, bundle: Path) -> str:
    """Log the bundle as an MLflow model of the run, as code and files, without pickles; give its URI."""
    client()
    import mlflow

    import serving

    code = Path(serving.__file__).parent
    needs = [f"{name}=={version(name)}" for name in NEEDED]
    with mlflow.start_run(run_id=run.id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(code / "pyfunc.py"),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(code)],
            pip_requirements=needs,
        )
    return str(logged.model_uri)


def ui_hint() -> str:
    """Where people look at the runs."""
    return place() if uri().startswith("http") else "make ui  (MLflow on http://127.0.0.1:5000)"
