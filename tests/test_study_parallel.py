"""Trials on worker processes: the same table for one and for two, and no worker's death costs a trial."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState

from pipeline.core.alone import alone
from pipeline.core.params import UserError
from pipeline.engine.local import Local
from pipeline.tuning.study import ended, open_study
from tests import madeup
from tests.madeup import EPOCHS, KILLS, sessions
from tests.studies import NAME, apart, die, killed, session, settings, story

TUNE = settings(trials=8, sampler="random", pruner="none")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What one process finds."""
    return story(session(tmp_path_factory.mktemp("one"), TUNE))


def kills(folder: Path, *entries: list[Any]) -> None:
    (folder / NAME).mkdir(parents=True)
    (folder / NAME / KILLS).write_text(json.dumps(entries))


def gone(pids: set[int], seconds: float = 20) -> bool:
    """True once none of these processes is left, zombies included."""
    until = time.monotonic() + seconds
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(psutil.pid_exists, pids))


def test_two_workers_whose_processes_are_killed_find_what_one_finds(one: list[Any], tmp_path: Path) -> None:
    kills(
        tmp_path, [0, "in epoch 0"], [1, "told epoch 3"], [2, "done"], [4, "told epoch 8"], [4, "in epoch 5"],
        [6, "in epoch 7"], [6, "told epoch 7"],
    )  # fmt: skip
    curves: dict[int, list[float]] = {}
    study = session(
        tmp_path, TUNE, workers=2,
        after=lambda trial, curve: curves.update({trial.number: [row["epoch"] for row in curve]}),
    )  # fmt: skip
    assert story(study) == one
    assert all(curve == list(range(EPOCHS)) for curve in curves.values()), "no epoch is told twice"
    tries = sessions(tmp_path / NAME)
    assert Counter(number for number, *_ in tries) == Counter([*range(8), 0, 1, 2, 4, 4, 6, 6])
    assert [first for number, first, _ in tries if number == 6] == [0, 7, 7], "it goes on from its checkpoint"
    assert [first for number, first, _ in tries if number == 1] == [0, 3], (
        "told, and its checkpoint not written"
    )
    assert len({process for *_, process in tries}) >= 2
    assert gone({process for *_, process in tries})
    assert os.getpid() not in {process for *_, process in tries}


def test_a_trial_that_kills_its_worker_each_time_is_failed_and_the_others_end(
    one: list[Any], tmp_path: Path
) -> None:
    kills(tmp_path, [1, "in epoch 2", "always"])
    study = session(tmp_path, settings(trials=3, sampler="random", pruner="none"), workers=2)
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert story(study)[::2] == one[:3:2]
    reason = study.get_trials()[1].user_attrs["reason"]
    assert reason.startswith("lost 3 times"), reason
    assert "killed by signal 9 (SIGKILL), perhaps for want of memory" in reason


def test_so_is_one_that_kills_the_stage_each_time(one: list[Any], tmp_path: Path) -> None:
    kills(tmp_path, [1, "in epoch 2", "always"])
    tune = settings(trials=3, sampler="random", pruner="none")
    codes = []
    for _ in range(4):
        process = apart(lambda: session(tmp_path, tune))
        process.join(60)
        codes.append(process.exitcode)
    assert codes == [-signal.SIGKILL] * 3 + [0]
    study = open_study(f"sqlite:///{tmp_path}/new/studies.db", NAME, tune)
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert story(study)[::2] == one[:3:2]
    assert "with the whole stage" in study.get_trials()[1].user_attrs["reason"]


class Deadly:
    """What ends a process that loads it."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


def test_the_first_worker_too_never_hears_ctrl_c() -> None:
    """Multiprocessing's own helper, which starts with the first process, unblocks the signal."""
    script = (
        "import signal\n"
        "from multiprocessing import resource_tracker\n"
        "from pipeline.engine.local import _no_interrupt\n"
        "with _no_interrupt():\n"
        "    resource_tracker.ensure_running()\n"
        "    assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_workers_that_die_as_they_start_are_not_started_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.local.STILLBORN", 2)
    pool: Local[str, None] = Local(Deadly(), lambda *_: None, 2)  # type: ignore[arg-type]
    pool.submit("task")
    with pytest.raises(UserError, match=r"2 worker processes in a row .* the last ended with exit code 3"):
        pool.wait()
    pool.close()
    assert pool.processes == []


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.02)
    assert what()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_stage_that_is_ended_leaves_no_worker_and_goes_on(
    sign: signal.Signals, one: list[Any], tmp_path: Path
) -> None:
    log = tmp_path / NAME / "log"
    process = apart(lambda: session(tmp_path, TUNE, madeup.slow, workers=2))
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= 3)
    assert process.pid
    os.kill(process.pid, sign)
    process.join(60)
    assert process.exitcode == (-sign if sign == signal.SIGKILL else 1)
    tries = sessions(tmp_path / NAME)
    assert gone({worker for *_, worker in tries})
    study = open_study(f"sqlite:///{tmp_path}/new/studies.db", NAME, TUNE)
    done = len(ended(study))
    assert story(study) == one[:done]
    assert done >= 1
    assert story(session(tmp_path, TUNE)) == one
    again = Counter(number for number, *_ in sessions(tmp_path / NAME))
    assert all(count == 1 for number, count in again.items() if number < done), "what ended is not repeated"


def test_a_bug_is_raised_with_the_place_where_it_happened_and_no_process_is_left(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a bug") as caught:
        session(tmp_path, TUNE, madeup.broken, workers=2)
    assert "in broken" in str(caught.value.__cause__)
    assert not [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]


def test_one_study_is_searched_by_one_process_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "some" / "study.lock"

    def hold() -> None:
        with alone(lock, "the study is searched"):
            (tmp_path / "held").touch()
            time.sleep(60)

    process = apart(hold)
    wait_for((tmp_path / "held").exists)
    with (
        pytest.raises(UserError, match=rf"the study is searched by another process \(number {process.pid}\)"),
        alone(lock, "the study is searched"),
    ):
        pass
    process.kill()
    process.join()
    with alone(lock, "the study is searched"):
        pass  # a kill leaves no lock


@pytest.mark.parametrize("busy", [False, True])
def test_a_kill_of_the_stage_takes_workers_with_it_that_load_or_say_nothing_for_long(
    busy: bool, tmp_path: Path
) -> None:
    def begin_and_die() -> None:
        pool: Local[Path, None] = Local(madeup.asleep, lambda *_: None, 2)
        pool.submit(tmp_path / "begun")
        (tmp_path / "pids").write_text(json.dumps(pool.processes))
        if busy:
            threading.Thread(target=pool.wait, daemon=True).start()
            wait_for((tmp_path / "begun").exists)
        die()

    killed(begin_and_die)
    (worker,) = json.loads((tmp_path / "pids").read_text())
    assert gone({worker})
    assert (tmp_path / "begun").exists() == busy
