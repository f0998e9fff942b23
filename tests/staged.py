"""What tests of single stages share: a folder of photos, what lies in a folder, how a stage refuses, its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import set_params


def use_images(project: Path, **more: object) -> Path:
    """Point the project at `photos`, which the caller fills."""
    set_params(project, {"data.source": "images", "data.path": "photos", **more})
    return project / "photos"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a stage that stopped as it should: exit code 1, one voice, no traceback."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.stderr


PEAK = """
import sys
from importlib import import_module
import_module(sys.argv[1]).run()
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


def peak(project: Path, stage: str) -> float:
    """The most memory a stage took, in MB, in a process of its own (`ru_maxrss` would count its parent's)."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, f"pipeline.{stage}"], cwd=project, capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    return int(done.stdout.split()[-1]) / 1024
