"""Experiment tracking: runs, what is recorded in them, and the models they made."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.core.params import UserError, section
from pipeline.mlflow_store import Tracking, asked, client, experiment_id, missing, place, store_error
from pipeline.origin import lineage as lineage  # tags of every run

NEEDED = ("numpy", "onnxruntime", "pandas", "pillow", "pydantic", "tokenizers")  # by `serving/`, to answer


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
