"""One trial, as a worker runs it: fits its values on every fold, reports each epoch, goes on after a kill."""

from __future__ import annotations

import gc
import math
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning.callbacks import Callback

from pipeline.core.stage import disk_full
from pipeline.engine.tasks import Ask
from pipeline.fitting import families
from pipeline.fitting.epochlog import EpochLog as EpochLog
from pipeline.fitting.fit import Job, fit
from pipeline.fitting.found import found
from pipeline.fitting.space import Plain, Space, override
from serving.inputs.spec import read_json, write_json

METRIC = "val_loss"
FAILURES = (RuntimeError, ValueError, MemoryError)  # that are the values' fault; anything else is ours


@dataclass(frozen=True)
class Task:
    """What a worker needs.

    Args:
        number: of the trial, in its study.
        jobs: what to fit, with the trial's values: one for each fold, or one.
        folder: its own, for checkpoints; what is found there is gone on with.
        pruned: ask after each epoch whether to end.
        values: of the trial, by the keys of the space; the jobs have them already.
    """

    number: int
    jobs: tuple[Job, ...]
    folder: Path
    pruned: bool = True
    values: Plain = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a task tells of an epoch; the answer is True where the trial is to end.

    `seconds` and `joules` were spent since the report before.
    """

    fold: int
    epoch: int
    metrics: dict[str, float]
    seconds: float
    joules: float


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: its measures (`val_loss`, `parameters`, ...), or why there are none."""

    state: Literal["complete", "pruned", "failed"]
    measures: dict[str, float] = field(default_factory=dict)
    reason: str = ""


class Pruned(Exception):
    """The coordinator ended the trial."""


def settled(job: Job, values: Plain, space: Space) -> Job:
    """A job with a trial's values."""
    return replace(
        job, model=families.settled(job.model, values, space), train=override(job.train, "train", values)
    )


def run_trial(task: Task, ask: Ask) -> Outcome:
    """Fit every fold; the trial's value is the mean of their last validation losses."""
    try:
        folds = [measured(task, fold, ask) for fold in range(len(task.jobs))]
    except Pruned:
        return Outcome("pruned")
    except FAILURES as error:
        if disk_full(str(error)):
            raise
        outcome = Outcome("failed", reason=f"{type(error).__name__}: {error}"[:500])
    else:
        losses = [each[METRIC] for each in folds]
        return Outcome("complete", {**folds[-1], METRIC: sum(losses) / len(losses)})
    tidy()
    return outcome


def measured(task: Task, fold: int, ask: Ask) -> dict[str, float]:
    """The measures of one fold: fitted, from its checkpoint if there is one, or read where it was finished before."""
    note = task.folder / str(fold) / "measures.json"
    if note.exists():
        found: dict[str, float] = read_json(note)
        return found
    measures = fit_fold(task, fold, ask)
    note.parent.mkdir(parents=True, exist_ok=True)
    fresh = note.with_suffix(".new")
    write_json(fresh, measures)
    fresh.replace(note)
    return measures


def fit_fold(task: Task, fold: int, ask: Ask) -> dict[str, float]:
    """Fit one fold; a checkpoint that cannot be gone on from is thrown away."""
    folder, losses = task.folder / str(fold), Losses()
    resumed = any(folder.rglob("last.ckpt"))
    job = found(task.jobs[fold], folder)
    hook = Reporter(task, fold, ask, losses)
    try:
        fit(job, [hook], folder, [losses], best=False)
    except FAILURES:
        if hook.told or not resumed:
            raise
        shutil.rmtree(folder)
        losses.values.clear()
        fit(job, [hook], folder, [losses], best=False)
    return {METRIC: losses.values[-1]}


class Losses(Callback):
    """The validation losses of a fold, which its checkpoint holds, so that they are those of its epochs."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def state_dict(self) -> dict[str, list[float]]:
        """For the checkpoint."""
        return {"values": list(self.values)}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """From the checkpoint."""
        self.values = list(state_dict["values"])


class Reporter:
    """Tells each epoch before its checkpoint is written, so that none is kept that was not told."""

    def __init__(self, task: Task, fold: int, ask: Ask, losses: Losses) -> None:
        self.task, self.fold, self.ask, self.losses = task, fold, ask, losses
        self.began, self.told = time.perf_counter(), 0

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        """Tell an epoch.

        Raises:
            Pruned: the trial is to end.
            ValueError: the loss is no number any more, or is infinite in the end.
        """
        now = time.perf_counter()
        report, self.began = Report(self.fold, epoch, metrics, now - self.began, 0.0), now
        self.losses.values.append(metrics[METRIC])
        self.told += 1
        over = self.ask(report)
        done = epoch + 1 == self.task.jobs[self.fold].train.max_epochs
        if math.isnan(metrics[METRIC]) or (done and math.isinf(metrics[METRIC])):
            raise ValueError(f"{METRIC} is {metrics[METRIC]} after epoch {epoch + 1}")
        if over and self.task.pruned and not (done and self.fold + 1 == len(self.task.jobs)):
            raise Pruned


def tidy() -> None:
    """Give back the memory of a trial that failed, perhaps for want of it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
