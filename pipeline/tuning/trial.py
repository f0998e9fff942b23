"""One trial, as a worker runs it: fits its values on every fold, reports each epoch, goes on after a kill."""

from __future__ import annotations

import gc
import math
import shutil
import statistics
import time
from dataclasses import replace

import torch
from pytorch_lightning.callbacks import Callback

from pipeline.core.params import UserError
from pipeline.core.stage import disk_full
from pipeline.engine.tasks import Ask
from pipeline.fitting import families
from pipeline.fitting.epochlog import EpochLog as EpochLog
from pipeline.fitting.finding import completed
from pipeline.fitting.fit import Job, fit
from pipeline.fitting.samples import SampleLosses
from pipeline.fitting.space import Plain, Space, override
from pipeline.tuning.measures import latency_ms, parameters, parameters_of
from pipeline.tuning.task import METRIC as METRIC
from pipeline.tuning.task import Outcome as Outcome
from pipeline.tuning.task import Report as Report
from pipeline.tuning.task import Task as Task
from serving.inputs.spec import read_json, write_json

SPREAD = "val_loss_spread"
FAILURES = (RuntimeError, ValueError, MemoryError)  # that are the values' fault; anything else is ours


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
        if task.most and (count := parameters_of(task.jobs[0])) > task.most:
            reason = f"not fitted: {count} parameters, and tune.constraints.parameters is {task.most}"
            return Outcome("pruned", {"parameters": count}, reason)
        folds = [measured(task, fold, ask) for fold in range(len(task.jobs))]
    except Pruned:
        return Outcome("pruned")
    except FAILURES as error:
        if disk_full(str(error)) or (isinstance(error, UserError) and task.number == 0):
            raise  # the first values are the given ones: what is wrong with them, or the machine, is for the user
        outcome = Outcome("failed", reason=f"{type(error).__name__}: {error}"[:500])
    else:
        return Outcome("complete", {**folds[-1], **over_folds([each[METRIC] for each in folds])})
    tidy()
    return outcome


def over_folds(losses: list[float]) -> dict[str, float]:
    """The value of a trial and, of several folds, their standard deviation."""
    spread = {SPREAD: statistics.stdev(losses)} if len(losses) > 1 else {}
    return {METRIC: statistics.fmean(losses), **spread}


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
    job = completed(task.jobs[fold], folder)
    hook = Reporter(task, fold, ask, losses)
    callbacks: list[Callback] = [losses, *([SampleLosses(task.losses_of(fold))] if task.losses else [])]
    try:
        served = fit(job, [hook], folder, callbacks, best=False)
    except FAILURES:
        if hook.told or not resumed:
            raise
        shutil.rmtree(folder)
        losses.values.clear()
        served = fit(job, [hook], folder, callbacks, best=False)
    found = {METRIC: losses.values[-1], "parameters": float(parameters(served))}
    if task.timed and fold + 1 == len(task.jobs):
        found["latency_ms"] = latency_ms(served, job)
    return found


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
        report, self.began = Report(self.fold, epoch, metrics, now - self.began, metrics["joules"]), now
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
