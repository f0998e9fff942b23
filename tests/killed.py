"""Trainings that are killed at steps drawn by chance, for `test_killed.py`: `python -m tests.killed FOLDER`.

One process loads everything, and each training is a fork of it, as a load takes longer than all of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from safetensors.torch import save_file

from pipeline.fitting.doctor import Doctor
from pipeline.fitting.fit import Job, fit
from tests.small import blobs, table_job

KILLS, EPOCHS, BATCHES = 5, 4, 13
SEED = 3
HOOKS = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end", "on_save_checkpoint")
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"ema": 0.9, "accumulate": 3, "mixup": 0.3, "sampling": "over", "patience": 4},
}


class Killer(Callback):
    """Ends the process with SIGKILL at a hook of a batch, counted from the first epoch on."""

    def __init__(self, at: int, hook: str) -> None:
        self._at, self._hook, self._now = at, hook, 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._now = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx
        self._reach("on_train_batch_start")

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        self._reach("on_before_optimizer_step")

    def on_train_batch_end(self, *given: Any) -> None:
        self._reach("on_train_batch_end")

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._reach("on_save_checkpoint")

    def _reach(self, hook: str) -> None:
        if hook == self._hook and self._now >= self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def points(seed: int) -> list[tuple[int, str]]:
    """Steps in ascending order, anywhere in the epochs, and where in each."""
    draw = Random(seed)
    return [(step, draw.choice(HOOKS)) for step in sorted(draw.sample(range(EPOCHS * BATCHES - 4), KILLS))]


def job_of(folder: Path, name: str) -> Job:
    """A tiny network with all that draws numbers."""
    settings = {"max_epochs": EPOCHS, "batch_size": 16, "augmentation": {"noise": 0.2, "masking": 0.1}}
    return table_job(
        folder, blobs(200, 0), blobs(60, 1), {**settings, **SETTINGS[name]}, {"dropout": 0.3, "depth": 2}
    )


def train(job: Job, state: Path, killers: list[Callback], result: Path) -> None:
    """Fit, and write the weights and what the doctor saw; a killer comes in the middle of the callbacks."""
    doctor = Doctor()
    served = fit(job, [], state, [doctor, *killers])
    save_file(served.state_dict(), result.with_suffix(".safetensors"))
    result.with_suffix(".json").write_text(json.dumps([doctor.looks, doctor.losses]))


def forked(work: Callable[[], None]) -> int:
    """Run in a process of its own; gives the signal that ended it, 0 where it ended well."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a training failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(folder: Path) -> None:
    """Every setting whole, and killed again and again; prints what ended each training."""
    torch.set_num_threads(1)
    for seed, name in enumerate(SETTINGS, start=SEED):
        here = folder / name
        here.mkdir(parents=True)
        job = job_of(here, name)
        ended = [forked(lambda job=job, here=here: train(job, here / "one", [], here / "whole"))]  # type: ignore[misc]
        for at, hook in points(seed):
            killer = Killer(at, hook)
            ended.append(
                forked(lambda job=job, here=here, k=killer: train(job, here / "two", [k], here / "x"))
            )  # type: ignore[misc]
        ended.append(forked(lambda job=job, here=here: train(job, here / "two", [], here / "killed")))  # type: ignore[misc]
        (here / "ended.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
