"""The store of runs: where it is, whether it answers, and MLflow's client on it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field

from pipeline.core.params import Section, UserError, section
from pipeline.core.patience import patiently, shown
from pipeline.core.project import Name
from pipeline.core.sqlite import check_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

R = TypeVar("R")
VIEW = "workflowType=machine_learning"  # of its pages: without it they open on the traces of language models
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


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
    check_file(address, "tracking.uri (or MLFLOW_TRACKING_URI)")
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


def project() -> str:
    """The project's name."""
    return section("name", Name)


def experiment_id() -> str:
    """The id of the project's experiment, made when it does not exist."""
    settings = section("tracking", Tracking)
    name = settings.experiment or project()
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


def ui_hint() -> str:
    """Where people look at the runs."""
    return place() if uri().startswith("http") else "make ui  (MLflow on http://127.0.0.1:5000)"
