"""A training that SIGKILL ends at five steps, anywhere inside its epochs, ends with the bits of the undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.killed import BATCHES, EPOCHS, HOOKS, KILLS, SEED, SETTINGS, points
from tests.project import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    threads = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }  # a fork has one alone
    ran = subprocess.run(
        [sys.executable, "-m", "tests.killed", str(folder)], cwd=ROOT, env={**os.environ, **threads},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.mark.parametrize("name", SETTINGS)
def test_five_kills_change_no_bit(name: str, done: Path) -> None:
    """Neither of the weights nor of what the doctor saw; with all on, of their mean, added batches and draws too."""
    here = done / name
    assert json.loads((here / "ended.json").read_text()) == [0, *[signal.SIGKILL] * KILLS, 0]
    assert not (here / "x.safetensors").exists(), "no killed training ended"
    for kind in ("safetensors", "json"):
        assert (here / f"whole.{kind}").read_bytes() == (here / f"killed.{kind}").read_bytes()
    looks, losses = json.loads((here / "killed.json").read_text())
    assert len(losses["val_loss"]) == EPOCHS
    assert len(looks) >= 5


def test_the_kills_lie_inside_epochs_and_at_every_kind_of_place() -> None:
    drawn = [points(seed) for seed in range(SEED, SEED + len(SETTINGS))]
    steps = [at for kills in drawn for at, _ in kills]
    assert sum(0 < at % BATCHES < BATCHES - 1 for at in steps) >= len(steps) // 2
    assert all(len({at // BATCHES for at, _ in kills}) >= 3 for kills in drawn), "in several epochs"
    assert {hook for kills in drawn for _, hook in kills} == set(HOOKS)
