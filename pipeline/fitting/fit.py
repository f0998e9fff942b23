"""Fitting one model with Lightning: what `tune` does many times and `train` once."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pydantic import BaseModel, Field
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from models.adversarial import Adversarial
from models.mixing import build as build_mixer
from models.optimiser import Optimiser
from models.params import Model
from models.reconstruction import Reconstruction
from models.served import Served
from models.sharding import is_sharded, state_of
from models.tasks import Supervised
from models.together import locals_here, separate, synchronise
from models.transfer import Transfer
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.fitting import groups
from pipeline.fitting.augmentation import Augmentation
from pipeline.fitting.augmentation import build as build_augmentation
from pipeline.fitting.averaging import Averaged
from pipeline.fitting.batches import Batches, Sampling
from pipeline.fitting.compute import Compute
from pipeline.fitting.epochlog import EpochHook
from pipeline.fitting.features import features, fixed
from pipeline.fitting.pretrained import weights_file
from pipeline.generation import Judge
from serving.inputs.spec import DataSpec, Task, Transform

TASKS: dict[Task, type[Supervised]] = {
    "classification": Supervised, "regression": Supervised, "anomaly": Reconstruction, "generation": Adversarial,
}  # fmt: skip
SMALL = 64 * 64  # values of one input up to which one thread does the work


class Privacy(BaseModel, extra="forbid", frozen=True):
    """Differentially private training; epsilon 0 trains without."""

    epsilon: float = Field(
        0, ge=0, le=1000, description="Privacy budget; smaller is more private; 0 is none at all."
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="Chance that the guarantee fails; below 1 / samples.")
    clip: float = Field(1.0, gt=0, le=1000, description="Largest norm of one sample's gradient.")


class Train(Optimiser, extra="forbid", frozen=True):
    """The `train` section: how a model is fitted."""

    max_epochs: int = Field(14, ge=1, le=10_000, description="Epochs at most.")
    batch_size: int = Field(
        128,
        ge=0,
        le=65_536,
        description="Samples in a batch, of all processes together; 0: the largest that fits.",
    )
    accumulate: int = Field(
        1, ge=1, le=4096, description="Batches whose gradients are added up before a step is taken."
    )
    privacy: Privacy = Field(
        default_factory=lambda: Privacy(),
        description="Differential privacy of the training samples (DP-SGD).",
    )
    patience: int = Field(
        8, ge=0, description="Epochs without a better validation loss before stopping; 0 never stops early."
    )
    sampling: Sampling = Field(
        "none",
        description="Classes of unequal size: 'over' repeats samples of small ones, 'under' leaves out some of large "
        "ones, other ones each epoch.",
    )
    doctor: bool = Field(
        True, description="Look at gradients and activations now and then, and say what is wrong with them."
    )
    gradient_clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 does not clip.")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="'auto': bf16-mixed on a GPU that has it, 32-true elsewhere."
    )
    augmentation: Augmentation = Field(
        default_factory=lambda: Augmentation(), description="Random transforms in the training loop."
    )


class Epochs(Callback):
    """Re-seeds at each epoch, so that a resumed epoch draws what the undisturbed one drew; reports it."""

    def __init__(self, seed: int, hooks: list[EpochHook]) -> None:
        self.seed, self.hooks, self.began = seed, hooks, 0.0

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
        for hook in self.hooks:
            hook(trainer.current_epoch, metrics)


@dataclass(frozen=True)
class Job:
    """All that fitting one model needs."""

    model: Model
    train: Train
    spec: DataSpec
    transform: Transform
    train_folder: Path
    val_folder: Path
    seed: int
    compute: Compute


def quiet() -> None:
    """Silence Lightning's banners; our own progress bar and summary say what matters."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.optim.lr_scheduler")


def fit(
    job: Job,
    hooks: list[EpochHook],
    checkpoints: Path | None = None,
    callbacks: list[Callback] | None = None,
) -> Served:
    """Fit one model and return it in evaluation mode on the CPU.

    With `checkpoints`, resumes from `last.ckpt` there and returns the weights of the lowest validation
    loss; without, returns those of the last epoch.
    """
    quiet()
    torch.set_num_threads(job.compute.threads or threads_for(job))
    pl.seed_everything(job.seed, workers=False, verbose=False)
    task, train, val = assemble(job)
    if task.served.lifted:  # what is left is little, and its checkpoints are not those of the whole
        torch.set_num_threads(job.compute.threads or 1)
        checkpoints = checkpoints / "head" if checkpoints else None
    steps: list[Callback] = [Epochs(job.seed, hooks), *(callbacks or [])]
    if job.train.ema:
        steps.append(Averaged(job.train.ema, device_of(job.compute)))
    if job.train.patience:
        steps.append(EarlyStopping("val_loss", patience=job.train.patience))
    best = None
    if checkpoints:
        best = ModelCheckpoint(
            checkpoints, "best", "val_loss", enable_version_counter=False, save_on_train_epoch_end=True
        )
        last = ModelCheckpoint(
            checkpoints, "last", enable_version_counter=False, save_on_train_epoch_end=True
        )
        steps += [best, last]
    resume = checkpoints / "last.ckpt" if checkpoints else None
    trainer = make_trainer(job, steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ckpt = str(resume) if resume and resume.exists() else None
        trainer.fit(task, train, val, ckpt_path=ckpt, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if is_sharded(task.served.net):
        task.served = put_together(task.served, job)
    if best is not None:
        state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        task.load_state_dict(state["state_dict"])
    task.served.eval()
    task.settle(val)
    separate(task.served)
    task.served.lower()
    return task.served.cpu().eval()


def put_together(served: Served, job: Job) -> Served:
    """The whole of a network of which each process holds a part."""
    whole = Served(job.model, job.spec, job.transform)
    whole.load_state_dict(state_of(served))
    return whole


def assemble(job: Job) -> tuple[Supervised, Batches, Batches]:
    """The task and its training and validation batches."""
    check_suits(job.train, job.spec)
    device = device_of(job.compute)
    try:
        served = Served(job.model, job.spec, job.transform)
        if isinstance(served.net, Transfer):
            served.net.open(job.train.unfreeze)  # refuses more than there are
            served.net.pretrain(weights_file(served.net.weights))
        mix = build_mixer(job.train, job.spec)
    except ValueError as error:
        raise UserError(str(error)) from None
    augment = build_augmentation(job.train.augmentation, job.spec, job.transform)
    given: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    cached = job.compute.cache_features and not groups.shards(job.compute)
    if cached and fixed(served, augment, mix is not None, job.train.unfreeze):
        with groups.first_alone():
            given = (features(served, job.train_folder, device), features(served, job.val_folder, device))
        served.lift()
    synchronise(served, device)
    train = Batches(
        job.train_folder, job.train.batch_size, device,
        shuffle_seed=job.seed, sampling=job.train.sampling, inputs=given[0],
    )  # fmt: skip
    val = Batches(job.val_folder, 512, device, inputs=given[1])
    steps = len(train) * job.train.max_epochs
    counts = train.counts if job.spec.task == "classification" else None
    task = TASKS[job.spec.task](served, job.train, augment, steps, mix, counts)
    task.size, task.rows = train.size, train.rows
    if isinstance(task, Adversarial):
        task.measure, task.clip = Judge(Dataset(job.train_folder)).measure, job.train.gradient_clip
    task.train()  # Lightning takes each module as it finds it, so that a frozen trunk may stay in evaluation mode
    return task, train, val


def check_suits(train: Train, spec: DataSpec) -> None:
    """Refuse what the task has no use for.

    Raises:
        UserError: something of classes is asked for a regression, or the reverse.
    """
    defaults = type(train)()
    ofs = {"classification": ("class_weights", "focal", "sampling"), "regression": ("huber",)}
    if spec.task == "generation":
        ofs |= {
            "classification": ("class_weights", "focal"),
            "training without an adversary": ("l1", "mixup", "cutmix"),
        }
    for task, names in ofs.items():
        for name in names:
            if task != spec.task and getattr(train, name) != getattr(defaults, name):
                raise UserError(
                    f"train.{name} is of use to a {task}, and the task is a {spec.task}; "
                    f"set it to {getattr(defaults, name)}"
                )


def threads_for(job: Job) -> int:
    """CPU threads that training gains from; a rule and no measurement, as rounding depends on their number.

    A 28x28 batch is so little work that a second thread saves 15 % on an idle machine and costs twenty
    times the whole beside another busy process, because threads spin while they wait for each other.
    """
    small = math.prod(job.spec.input_shape) <= SMALL and job.model.family != "transfer"
    return 1 if small else max(1, (os.cpu_count() or 1) // locals_here())


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


def precision_of(train: Train, device: torch.device) -> Any:
    """The precision that suits the device, unless one is given."""
    if train.precision != "auto":
        return train.precision
    return "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def make_trainer(job: Job, callbacks: list[Callback]) -> pl.Trainer:
    """A Trainer with nothing in its loop that we do not use."""
    device = device_of(job.compute)
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        **groups.devices(job),
        max_epochs=job.train.max_epochs,
        gradient_clip_val=None if job.spec.task == "generation" else job.train.gradient_clip or None,
        precision=precision_of(job.train, device),
        deterministic="warn" if device.type == "cuda" else True,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
