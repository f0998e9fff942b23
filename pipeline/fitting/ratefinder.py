"""The learning-rate range test: what `train.lr: 0` asks for.

After Smith, "Cyclical Learning Rates for Training Neural Networks" (2017): one short training in which the rate
grows exponentially. The loss falls, then breaks out; the rate that is taken lies a factor below the lowest loss.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import pytorch_lightning as pl
import torch

from models.tasks import Batch, Supervised
from pipeline.core.params import UserError
from pipeline.fitting.assembly import assemble
from pipeline.fitting.batches import Batches
from pipeline.fitting.settings import Job
from pipeline.fitting.trainer import device_of, quiet, threads_for

LOWEST, HIGHEST = 1e-5, 1.0  # the rates that are tried
STEPS = 120
SMOOTHING = 0.9  # of the loss, a running mean
BROKEN = 3.0  # times the lowest loss ends the test
MARGIN = 10.0  # between the rate of the lowest loss and the one that is taken
BOUNDS = (1e-4, 0.1)  # of what is taken


def with_rate(job: Job) -> Job:
    """The job with a learning rate: its own, or one that a range test finds and prints where it is 0."""
    if job.train.lr:
        return job
    if job.spec.task == "generation":
        raise UserError("train.lr: 0 asks for a range test, which tells nothing of two players; try 0.0005")
    rate = suggested(*range_test(job))
    print(f"train.lr is 0: a range test takes {rate:g}")
    return dataclasses.replace(job, train=job.train.model_copy(update={"lr": rate}))


def range_test(job: Job) -> tuple[list[float], list[float]]:
    """Rates and the loss of a batch at each, of a network that is then thrown away; the seed decides both."""
    quiet()
    torch.set_num_threads(job.compute.threads or threads_for(job))
    pl.seed_everything(job.seed, workers=False, verbose=False)
    task, batches, _ = assemble(job)
    task.to(device_of(job.compute)).train()
    groups = [{**group, "weight_decay": 0.0} for group in task.groups(1.0)]
    optimiser = torch.optim.AdamW(groups)
    shares = [group["lr"] for group in groups]
    weights = [weight for weight in task.parameters() if weight.requires_grad]
    rates, losses = [], []
    endless = _endless(batches)
    for step in range(STEPS):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group, share in zip(optimiser.param_groups, shares, strict=True):
            group["lr"] = rate * share
        optimiser.zero_grad()
        loss = sum(
            _added(task, next(endless), step, job.train.accumulate) for _ in range(job.train.accumulate)
        )
        if job.train.gradient_clip:
            torch.nn.utils.clip_grad_norm_(weights, job.train.gradient_clip)
        optimiser.step()
        rates.append(rate)
        losses.append(loss)
        if not math.isfinite(losses[-1]) or losses[-1] > 2 * BROKEN * max(losses[0], min(losses)):
            break
    return rates, losses


def _added(task: Supervised, batch: Batch, step: int, group: int) -> float:
    """A batch's share of the loss of its group, its gradient added up."""
    loss = task.training_step(batch, step) / group
    loss.backward()
    return float(loss.detach())


def _endless(batches: Batches) -> Iterator[Batch]:
    """The batches of one epoch after the other."""
    for epoch in itertools.count():
        batches.set_epoch(epoch)
        yield from batches


def suggested(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate to train with, to two digits: a tenth of that at which the smoothed loss is lowest, within bounds.

    >>> suggested([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [1.0, 0.9, 0.3, 0.9, 9.0])
    0.001
    """
    smooth, mean, lowest, best = 0.0, 0.0, math.inf, rates[0]
    for at, (rate, loss) in enumerate(zip(rates, losses, strict=True)):
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth = mean / (1 - SMOOTHING ** (at + 1))
        if smooth > BROKEN * lowest:
            break
        if smooth < lowest:
            lowest, best = smooth, rate
    found = min(max(best / MARGIN, BOUNDS[0]), BOUNDS[1])
    return float(f"{found:.1e}")
