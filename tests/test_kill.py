"""`kill -9` and Ctrl-C in every stage: earlier outputs stay whole, nothing keeps running, the road goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.code import STAGES
from tests.road import Road

pytestmark = pytest.mark.slow
# Seconds after the stage's process began: once while it loads, once while it works or writes.
MOMENTS = (0.5, 2.5)


@pytest.fixture(scope="module")
def mine(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Road:
    return road.copy(tmp_path_factory.mktemp("kill") / "road")


def ours(road: Road) -> list[psutil.Process]:
    """Processes that work in the road's folder or for it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.info["cmdline"] or [])
            inside = process.cwd().startswith(str(road.folder)) or str(road.folder) in words
            if inside and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def interrupt(road: Road, stage: str, moment: float, sign: signal.Signals) -> bool:
    """Run a stage anew under DVC and interrupt the whole session; True where the stage was still running."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        ["dvc", "repro", "-s", "-f", stage], cwd=road.folder, env=road.environment(),
        stdout=quiet, stderr=quiet, start_new_session=True,
    )  # fmt: skip
    child = None
    while child is None and process.poll() is None:
        words = {p.pid: " ".join(p.cmdline()) for p in ours(road) if p.pid != process.pid}
        child = next((pid for pid, line in words.items() if f"-m pipeline.{stage}" in line), None)
        time.sleep(0.02)
    time.sleep(moment)
    alive = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, sign)
    process.wait(60)
    return alive


def nothing_runs(road: Road, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while ours(road) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not ours(road)


@pytest.mark.parametrize("stage", STAGES)
def test_kill_9_leaves_every_earlier_output_whole(mine: Road, stage: str) -> None:
    outputs = [f"data/{name}" for name in STAGES]
    for moment in MOMENTS:
        before = {path: mine.digest(path) for path in outputs}
        running = interrupt(mine, stage, moment, signal.SIGKILL)
        assert nothing_runs(mine), ours(mine)
        after = {path: mine.digest(path) for path in outputs}
        changed = [path for path in outputs if before[path] != after[path]]
        # A stage may have ended in time; then its own output alone is new, and whole.
        assert changed == [] or (changed == [f"data/{stage}"] and moment == MOMENTS[-1]), (changed, running)


def test_the_road_goes_on_after_every_kill(mine: Road) -> None:
    lock = mine.folder / "dvc.lock"
    lock.write_text(
        lock.read_text()[: lock.stat().st_size // 2] + "\n    size: ["
    )  # as a kill of DVC can leave it, and its list of locked paths
    (mine.folder / ".dvc" / "tmp" / "rwlock").write_text("")
    done = mine.make("repro")
    assert "dvc.lock was cut short" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert mine.json("data/promote/receipt.json")["verdict"] in ("promoted", "unchanged", "inconclusive")
    assert "up to date" in mine.run("dvc", "repro").stdout


@pytest.mark.parametrize(("stage", "moment"), [("tune", 1.5), ("certify", 3.0), ("export", 4.0)])
def test_ctrl_c_is_told_and_leaves_nothing(mine: Road, stage: str, moment: float) -> None:
    before = mine.digest(f"data/{stage}")
    process = subprocess.Popen(
        ["python", "-m", f"pipeline.{stage}"], cwd=mine.folder, env=mine.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(moment)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    if process.returncode:
        assert "Traceback" not in told
        assert "interrupted" in told
        assert mine.digest(f"data/{stage}") == before
    assert nothing_runs(mine), ours(mine)
    assert not Path(mine.folder / "data" / f".{stage}.new").exists()


@pytest.mark.parametrize("stage", ["tune", "train"])
def test_ctrl_c_in_an_epoch_is_told_and_its_run_is_not_a_failed_one(
    road: Road, tmp_path: Path, stage: str
) -> None:
    mine = road.copy(tmp_path / "road")
    mine.set({"tune": {"trials": 3, "max_epochs": 200}, "train": {"max_epochs": 200}})
    before, known = mine.digest(f"data/{stage}"), set((mine.folder / ".fairlead").rglob("*.ckpt"))
    process = subprocess.Popen(
        ["python", "-m", f"pipeline.{stage}"], cwd=mine.folder, env=mine.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not set((mine.folder / ".fairlead").rglob("*.ckpt")) - known:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{stage}: interrupted; earlier outputs are intact" in told
    assert "Traceback" not in told
    assert mine.digest(f"data/{stage}") == before
    with closing(sqlite3.connect(mine.folder / "mlflow.db")) as runs:
        (last,) = runs.execute(
            "SELECT status FROM runs JOIN tags USING (run_uuid) WHERE key = 'stage' AND value = ? "
            "ORDER BY start_time DESC LIMIT 1",
            (stage,),
        ).fetchone()
    assert last == "KILLED"
    assert nothing_runs(mine), ours(mine)
