"""Lightning's Trainer as we use it: where it runs, with how many threads, and what happens in every epoch."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from models.together import everyone, locals_here
from pipeline.core.params import UserError
from pipeline.fitting import groups
from pipeline.fitting.compute import Compute
from pipeline.fitting.energy import Meter
from pipeline.fitting.epochlog import EpochHook
from pipeline.fitting.precision import precision_of_trainer
from pipeline.fitting.settings import Job

SMALL = 64 * 64  # values of one input up to which one thread does the work


class Epochs(Callback):
    """Re-seeds at each epoch, so that a resumed epoch draws what the undisturbed one drew; reports it.

    `joules` are those of all processes since the report before; `more` gives further metrics.
    """

    def __init__(
        self, seed: int, hooks: list[EpochHook], meter: Meter, more: Callable[[], dict[str, float]] = dict
    ) -> None:
        self.seed, self.hooks, self.meter, self.more, self.began = seed, hooks, meter, more, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed every generator from the seed and the epoch."""
        torch.manual_seed(self.seed * 100_003 + trainer.current_epoch)
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the epoch's metrics to the hooks."""
        names = ("train_loss", "val_loss", "val_score")
        metrics = {name: float(trainer.callback_metrics[name]) for name in names}
        metrics["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        metrics["seconds"] = time.perf_counter() - self.began
        metrics["joules"] = sum(map(float, everyone(torch.tensor(self.meter.joules(), dtype=torch.float64))))
        metrics |= self.more()
        for hook in self.hooks:
            hook(trainer.current_epoch, metrics)


def quiet() -> None:
    """Silence Lightning's banners; our own progress bar and summary say what matters."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.optim.lr_scheduler")


def threads_for(job: Job) -> int:
    """CPU threads that training gains from; a rule and no measurement, as rounding depends on their number.

    A 28x28 batch is so little work that a second thread saves 15 % on an idle machine and costs twenty
    times the whole beside another busy process, because threads spin while they wait for each other. Otherwise all
    cores do it, or the part of them that OMP_NUM_THREADS leaves this process, as with several workers.
    """
    small = math.prod(job.spec.input_shape) <= SMALL and job.model.family != "transfer"
    part = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    given = int(part) if part.isdecimal() else 0
    return 1 if small else given or max(1, (os.cpu_count() or 1) // locals_here())


def device_of(compute: Compute) -> torch.device:
    """The device that training uses.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    cuda = compute.accelerator != "cpu" and torch.cuda.is_available()
    if compute.accelerator == "gpu" and not cuda:
        raise UserError(
            "compute.accelerator is 'gpu' and PyTorch finds no CUDA device here; use 'auto' or 'cpu'"
        )
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


@contextmanager
def ctrl_c_is_raised(trainer: pl.Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt where Lightning ends the process at Ctrl-C, since the stage has a word to say.

    Lightning also has Ctrl-C ignored from then on; it is heard again here.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if error.code != 1 or not trainer.interrupted:
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None


def make_trainer(job: Job, callbacks: list[Callback]) -> pl.Trainer:
    """A Trainer with nothing in its loop that we do not use."""
    device = device_of(job.compute)
    own_clipping = job.spec.task == "generation" or job.train.privacy.epsilon > 0
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        **groups.devices(job),
        max_epochs=job.train.max_epochs,
        accumulate_grad_batches=job.train.accumulate,
        gradient_clip_val=None if own_clipping else job.train.gradient_clip or None,
        deterministic="warn" if device.type == "cuda" else True,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **precision_of_trainer(job.train, device),
    )
