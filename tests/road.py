"""A copy of the project in a folder of its own, with a shrunken road that tests run for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.project import ROOT, Project

BIN = Path(sys.executable).parent
VENV = BIN.parent
SHRUNK = {
    "augment": {"factor": 0},
    "tune": {"trials": 2, "max_epochs": 1, "top": 1},
    "train": {"max_epochs": 2},
    "evaluate": {"resamples": 200},
    "promote": {"resamples": 200},
    "certify": {"samples": 64, "lone_requests": 20},
    "tracking": {"system_metrics_seconds": 0.5},
}


class Road(Project):
    """The copied project: run commands in it, read what they wrote."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file() and not name.startswith("dvc.lock"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.run("git", "init", "-q")
        self.set(SHRUNK)
        self.commit("start")

    def commit(self, message: str) -> None:
        """Commit everything, as a user would."""
        self.run("git", "add", "-A")
        self.run(
            "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", message
        )

    def environment(self) -> dict[str, str]:
        """Ours, without what would lead a command elsewhere."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTEST_", "PYTHONPATH"))}
        return kept | {"PATH": f"{BIN}:{kept['PATH']}", "PYTHONPATH": str(self.folder), "COLUMNS": "200"}

    def run(self, *words: str, check: bool = True, seconds: float = 400) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder; a failure shows what it printed."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)} gave {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command in the folder, silent."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen(words, cwd=self.folder, env=self.environment(), stdout=quiet, stderr=quiet)

    def make(self, target: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a make target with this test's environment in place of a new one."""
        stamps = [word for name in (".installed", ".installed-dev") for word in ("-o", f"{VENV}/{name}")]
        return self.run("make", *stamps, "-o", f"{VENV}/bin/python", target, f"VENV={VENV}", check=check)

    def copy(self, folder: Path) -> Road:
        """The same project with all its outputs and caches, in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        other = object.__new__(Road)
        other.folder = folder
        return other


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """One whole road, run once for all the tests that look at it; `first.log` is what `make repro` printed."""
    road = Road(tmp_path_factory.mktemp("road"))
    first = road.make("repro")
    (road.folder / "first.log").write_text(first.stdout + first.stderr)
    shutil.copy(road.folder / "data/train/run.json", road.folder / "first.json")
    road.commit("after the first run")
    return road


class ByRoad(LoadScopeScheduling):
    """Tests by file to a process each, those of the session's road to one, which makes it once; a recipe to any.

    Xdist's own groups are lost on pytest 9.2, as it appends them to a name that pytest no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if "road: Road" in (ROOT / file).read_text():
            return "road"
        return nodeid if file.endswith("test_recipes_road.py") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByRoad:
    """How tests are shared out where they run in several processes."""
    return ByRoad(config, log)
