"""Fitting one model with Lightning: what `tune` does many times and `train` once."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping

from models.served import Served
from models.sharding import is_sharded
from models.together import separate
from pipeline.fitting.accumulating import Accumulated
from pipeline.fitting.assembly import assemble, put_together
from pipeline.fitting.averaging import Averaged
from pipeline.fitting.batches import Batches
from pipeline.fitting.checkpoints import Checkpoints
from pipeline.fitting.compiling import as_written, compile_net
from pipeline.fitting.energy import Meter
from pipeline.fitting.epochlog import EpochHook
from pipeline.fitting.privacy import Guarded
from pipeline.fitting.secret import Secret
from pipeline.fitting.settings import Job, Train
from pipeline.fitting.trainer import Epochs, ctrl_c_is_raised, device_of, make_trainer, quiet, threads_for

__all__ = ["Job", "Train", "assemble", "fit"]


def fit(
    job: Job,
    hooks: list[EpochHook],
    checkpoints: Path | None = None,
    callbacks: list[Callback] | None = None,
    best: bool = True,
) -> Served:
    """Fit one model and return it in evaluation mode on the CPU.

    With `checkpoints`, resumes from `last.ckpt` there and returns the weights of the lowest validation
    loss, if the `best` are asked for; else returns those of the last epoch.
    """
    quiet()
    torch.set_num_threads(job.compute.threads or threads_for(job))
    pl.seed_everything(job.seed, workers=False, verbose=False)
    secret = Secret(checkpoints) if job.train.privacy.epsilon else None
    task, train, val = assemble(job, secret)
    guard = Guarded(job.train, train, secret) if secret else None
    if task.served.lifted:  # what is left is little, and its checkpoints are not those of the whole
        torch.set_num_threads(job.compute.threads or 1)
        checkpoints = checkpoints / "head" if checkpoints else None
    if job.compute.compile:
        compile_net(task.served.net, ragged=job.spec.input.ragged)
    kept = Checkpoints(checkpoints, best) if checkpoints else None
    trainer = make_trainer(
        job, [*steps(job, train, hooks, callbacks or [], guard), *(kept.callbacks if kept else [])]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ctrl_c_is_raised(trainer):
            trainer.fit(task, train, val, ckpt_path=kept.resume if kept else None, weights_only=True)
    if is_sharded(task.served.net):
        task.served = put_together(task.served, job)
    if kept is not None:
        kept.restore(task)
    as_written(task.served.net)
    if secret:
        secret.forget()
    task.served.eval()
    task.settle(val)
    separate(task.served)
    task.served.lower()
    return task.served.cpu().eval()


def steps(
    job: Job, train: Batches, hooks: list[EpochHook], callbacks: list[Callback], guard: Guarded | None = None
) -> list[Callback]:
    """What happens in the loop, in its order: seeding, privacy, `callbacks`, adding up batches, averaging, stopping."""
    meter = Meter(device_of(job.compute))
    epochs = Epochs(job.seed, hooks, meter, guard.spent if guard else dict)
    found: list[Callback] = [epochs, *([guard] if guard else []), *callbacks]
    if job.train.accumulate > 1:
        found.append(Accumulated(train, job.train.accumulate))
    if job.train.ema:
        found.append(Averaged(job.train.ema, device_of(job.compute)))
    if job.train.patience:
        found.append(EarlyStopping("val_loss", patience=job.train.patience))
    return found
