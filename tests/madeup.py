"""A made-up trial for the tests of studies: a learning curve that its values decide, checkpoints, and kills."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.engine.tasks import Ask
from pipeline.tuning.task import Outcome, Report, Task

EPOCHS = 9
KILLS = "kills.json"  # in the folder of all trials: [number, place] at which a worker kills itself, once each


def value_at(x: float, n: int, c: str, epoch: int) -> float:
    """A made-up learning curve: lower for good values, and lower with every epoch."""
    return (x - 0.3) ** 2 + n / 64 + 0.1 * "abc".index(c) + 1 / (epoch + 1)


def work(task: Task, ask: Ask) -> Outcome:
    """Report the curve, from the checkpoint on, which is written after an epoch was told."""
    checkpoint = task.folder / "epoch"
    task.folder.mkdir(parents=True, exist_ok=True)
    first = int(checkpoint.read_text()) + 1 if checkpoint.exists() else 0
    with (task.folder.parent / "log").open("a") as log:
        log.write(json.dumps([task.number, first, os.getpid()]) + "\n")
    for epoch in range(first, EPOCHS):
        kill_at(task, f"in epoch {epoch}")
        value = value_at(**task.values, epoch=epoch)
        over = ask(Report(0, epoch, {"val_loss": value, "epoch": float(epoch)}, 0.5, 2.0))
        kill_at(task, f"told epoch {epoch}")
        if over and epoch + 1 < EPOCHS:
            return Outcome("pruned")
        checkpoint.write_text(str(epoch))
    kill_at(task, "done")
    return Outcome("complete", {"val_loss": value_at(**task.values, epoch=EPOCHS - 1)})


def turned(task: Task, ask: Ask) -> Outcome:
    """As `work`, but what is good there is bad here."""
    for epoch in range(EPOCHS):
        value = -value_at(**task.values, epoch=EPOCHS - epoch)
        if ask(Report(0, epoch, {"val_loss": value, "epoch": float(epoch)}, 0.5, 2.0)) and epoch + 1 < EPOCHS:
            return Outcome("pruned")
    return Outcome("complete", {"val_loss": -value_at(**task.values, epoch=1)})


def kill_at(task: Task, place: str) -> None:
    """Die as by `kill -9` where the file says so, once each; an entry that says `always` is followed each time."""
    path = task.folder.parent / KILLS
    kills: list[Any] = json.loads(path.read_text()) if path.exists() else []
    for at, kill in enumerate(kills):
        if kill[:2] == [task.number, place]:
            with suppress(FileExistsError):
                if kill[2:] != ["always"]:
                    path.with_name(f"killed-{at}").touch(exist_ok=False)  # several workers look at once
                os.kill(os.getpid(), signal.SIGKILL)


def sessions(folder: Path) -> list[list[int]]:
    """The number, first epoch and process of each attempt at a trial."""
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def slow(task: Task, ask: Ask) -> Outcome:
    """As `work`, an epoch taking a while."""

    def later(report: Any) -> Any:
        time.sleep(0.05)
        return ask(report)

    return work(task, later)


def failing(task: Task, ask: Ask) -> Outcome:
    """Every second trial fails."""
    if task.number % 2:
        return Outcome("failed", reason=f"RuntimeError: failure {task.number}")
    return work(task, ask)


def hopeless(task: Task, ask: Ask) -> Outcome:
    """Every trial fails."""
    return Outcome("failed", reason=f"RuntimeError: failure {task.number}")


def broken(task: Task, ask: Ask) -> Outcome:
    """A bug of ours."""
    raise TypeError("a bug")


def lingering(task: Task, ask: Ask) -> Outcome:
    """One epoch that takes a while."""
    time.sleep(0.1)
    ask(Report(0, 0, {"val_loss": 1.0}, 0.1, 2.0))
    return Outcome("complete", {"val_loss": 1.0})


def asleep(task: Path, ask: Ask) -> None:
    """Say that it works, then nothing for long."""
    del ask
    task.touch()
    time.sleep(600)
