"""One trial, as a worker runs it: fits its values on every fold, reports each epoch, goes on after a kill."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pytorch_lightning.callbacks import Callback

from pipeline.engine.tasks import Ask
from pipeline.fitting import families
from pipeline.fitting.epochlog import EpochLog as EpochLog
from pipeline.fitting.fit import Job, fit
from pipeline.fitting.ratefinder import with_rate
from pipeline.fitting.samples import SampleLosses
from pipeline.fitting.space import Plain, Space, override

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
        losses: keep the validation loss of each sample in the folder.
    """

    number: int
    jobs: tuple[Job, ...]
    folder: Path
    pruned: bool = True
    values: Plain = field(default_factory=dict)
    losses: bool = False

    def losses_of(self, fold: int) -> Path:
        """Where the losses of a fold's validation samples are kept."""
        return self.folder / f"losses-{fold}.npy"


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
        losses = [fit_fold(task, fold, job, ask) for fold, job in enumerate(task.jobs)]
    except Pruned:
        return Outcome("pruned")
    except FAILURES as error:
        return Outcome("failed", reason=f"{type(error).__name__}: {error}"[:500])
    return Outcome("complete", {METRIC: sum(losses) / len(losses)})


def fit_fold(task: Task, fold: int, job: Job, ask: Ask) -> float:
    """The last validation loss of one fold."""
    curve: list[float] = []
    began = time.perf_counter()

    def report(epoch: int, metrics: dict[str, float]) -> None:
        nonlocal began
        now = time.perf_counter()
        curve.append(metrics[METRIC])
        told = Report(fold, epoch, metrics, now - began, 0.0)
        began = now
        last = epoch + 1 == job.train.max_epochs and fold + 1 == len(task.jobs)
        if ask(told) and task.pruned and not last:
            raise Pruned

    kept: list[Callback] = [SampleLosses(task.losses_of(fold))] if task.losses else []
    fit(with_rate(job), [report], callbacks=kept)
    if not math.isfinite(curve[-1]):
        raise ValueError(f"the trial ended with the value {curve[-1]}")
    return curve[-1]
