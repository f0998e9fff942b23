"""A recipe on the whole road in one process: every stage's own `run`, a real MLflow store, a real TorchServe.

DVC's part is tested on the roads of `tests/road.py`; here ten stages share one process, which loads its libraries
once, so that every recipe can be walked in CI.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core import params
from pipeline.core.stage import main
from tests.project import ROOT, Project
from tests.stores import forget

STAGES = tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
SHRUNK: dict[str, dict[str, Any]] = {
    "augment": {"factor": 0},
    "tune": {"trials": 0},
    "train": {"max_epochs": 2},
    "evaluate": {"resamples": 200},
    "promote": {"resamples": 200},
    "certify": {"samples": 32, "lone_requests": 10, "connections": 4},
    "server": {"workers": 1},
}


@contextlib.contextmanager
def standing_in(folder: Path, store: str) -> Iterator[None]:
    """Work in a project's folder, its runs in `store`; nothing that is cached of another project is seen."""
    if store.startswith("sqlite:///") and not store.startswith("sqlite:////"):
        store = f"sqlite:///{folder / store.removeprefix('sqlite:///')}"  # MLflow keeps an open store by its address
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        params._read.cache_clear()
        forget()
        try:
            yield
        finally:
            params._read.cache_clear()
            forget()


def walk(folder: Path, recipe: Path, store: str, changes: Mapping[str, dict[str, Any]]) -> Project:
    """Run all stages of a recipe, shrunk and changed, in `folder`, whose `data/raw` the caller may have filled."""
    project = Project(folder)
    (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
    shutil.copy(recipe, folder / "params.yaml")
    project.set(SHRUNK)
    project.set(changes)
    with standing_in(folder, store):
        for stage in STAGES:
            import_module(f"pipeline.{stage}").run()
    return project


def refused(project: Project, stage: str) -> str:
    """Run a stage as its program does, in this process, in a project with a store of its own; give what it says."""
    told = io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    with (
        standing_in(project.folder, "sqlite:///mlflow.db"),
        contextlib.redirect_stderr(told),
        pytest.raises(SystemExit) as ended,
    ):
        main(import_module(f"pipeline.{stage}").run, stage)
    signal.signal(signal.SIGTERM, handler)
    assert ended.value.code == 1
    return told.getvalue()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A local MLflow database for all walks of this process, as laying one out takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('runs')}/mlflow.db"
