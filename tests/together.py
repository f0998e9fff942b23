"""Trainings that two real processes do together, and one does alone: what of them is kept to be compared."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import distributed, multiprocessing
from torch.distributed.tensor import DTensor

from models.params import Model
from models.served import Served
from pipeline.fitting.batches import Batches, Sampling
from pipeline.fitting.doctor import Doctor
from pipeline.fitting.fit import Job, Train, fit
from pipeline.fitting.groups import Place, joined, loopback
from serving.inputs.ragged import Ragged
from serving.inputs.spec import Transform
from tests.conftest import digits, spec_of, write_dataset
from tests.generators import job_of as players_job
from tests.samples import rows_of, transform_of
from tests.samples import spec_of as sample_spec
from tests.small import CPU, blobs, table_job, write
from tests.test_transfer import picture_job

WORLD = 2
SHARE = 0.2  # of the rare class


def rows_job(folder: Path, model: dict[str, Any] | None = None, **settings: Any) -> Job:
    """121 rows: the last of four batches of 31 is smaller, and none has equal shares."""
    given = {"batch_size": 31, "max_epochs": 4, **settings}
    return table_job(folder / "rows", blobs(121, 0, SHARE), blobs(49, 1), given, model)


def values_job(folder: Path, **settings: Any) -> Job:
    """A regression whose rate is too high to go on getting better."""
    train, val = ((rows, rows[:, :2] + 3 * rows[:, 1:3]) for rows, _ in (blobs(90, 0), blobs(41, 1)))
    given = {"lr": 0.3, "warmup": 0.5, "max_epochs": 30, "patience": 1, "huber": 1.0, **settings}
    return table_job(folder / "values", train, val, given)


def steps_job(folder: Path) -> Job:
    """Series of unequal length, transformed at random."""
    spec = sample_spec("series")
    spec = spec.model_copy(update={"columns": (*spec.columns, table_job_id())})
    for name, count in (("train", 41), ("val", 15)):
        rows = [row[: 9 - at % 9].numpy() for at, row in enumerate(rows_of(spec, count, 9, count))]
        held = Ragged.of(rows, spec.input.dtype, spec.input.shape)
        if not (folder / "steps" / name).exists():
            write(folder / "steps" / name, spec, held, np.arange(count) % 5)
    net = Model.model_validate({"family": "cnn", "width": 4, "depth": 2, "kernel": 3, "dropout": 0.0})
    train = Train.model_validate(
        {"max_epochs": 2, "batch_size": 16, "lr": 0.01,
         "augmentation": {"noise": 0.1, "scale": 0.2, "crop": 0.3, "masking": 0.2}}
    )  # fmt: skip
    return Job(
        net, train, spec, transform_of(spec), folder / "steps/train", folder / "steps/val", 7, CPU
    )  # fmt: skip


def table_job_id() -> Any:
    """The column that names samples."""
    return spec_of((1, 8, 8), "ab").columns[-1]


def pictures_job(folder: Path, task: str = "classification") -> Job:
    """Pictures that are turned, moved, cut, mirrored, distorted and erased; or what is normal among them."""
    spec = spec_of((1, 28, 28), ("0", "1")).model_copy(update={"task": task})
    for name, count in (("train", 41), ("val", 24)):
        images, labels = digits(2 * count, count, 2)
        rows = labels == 0 if (task, name) == ("anomaly", "train") else np.arange(2 * count) < count
        if not (folder / task / name).exists():
            write_dataset(folder / task / name, images[rows], labels[rows], spec.classes)
    family = "cnn" if task == "classification" else "autoencoder"
    net = {"family": family, "width": 4, "depth": 1, "dropout": 0.0, "latent": 3}
    given = {"max_epochs": 2, "batch_size": 16, "lr": 0.01,
             "augmentation": {"crop": 0.2, "flip": 0.5, "erasing": 0.5, "elastic": 0.5}}  # fmt: skip
    return Job(
        Model.model_validate(net), Train.model_validate(given), spec, Transform(mean=(60.0,), std=(70.0,)),
        folder / task / "train", folder / task / "val", 7, CPU,
    )  # fmt: skip


MIXED = {
    "mixup": 0.3,
    "l1": 1e-3,
    "ema": 0.9,
    "sampling": "over",
    "augmentation": {"noise": 0.3, "masking": 0.2},
}
JOBS: dict[str, Callable[[Path], Job]] = {
    "weighted": lambda folder: rows_job(folder, class_weights="balanced", label_smoothing=0.1),
    "focal": lambda folder: rows_job(folder, class_weights="balanced", focal=2.0, sampling="under", batch_size=11),
    "added up": lambda folder: rows_job(folder, accumulate=3, batch_size=15),
    "drawn": lambda folder: rows_job(folder, **MIXED),
    "stopped": values_job,
    "steps": steps_job,
    "pictures": pictures_job,
    "anomalies": lambda folder: pictures_job(folder, "anomaly"),
    "players": lambda folder: players_job(folder / "players", max_epochs=2, ema=0.5, gradient_clip=0.5, batch_size=30),
    "cached": lambda folder: picture_job(folder / "frozen", {"dropout": 0.0, "depth": 1, "width": 8}),
    "unfrozen": lambda folder: picture_job(
        folder / "frozen", {"dropout": 0.0}, unfreeze=2, unfreeze_every=1, layer_decay=0.5
    ),
}  # fmt: skip


def recomputed(job: Job) -> Job:
    """The same job, whose activations are computed again in the backward pass."""
    return dataclasses.replace(job, compute=job.compute.model_copy(update={"checkpoint_activations": True}))


def in_parts(job: Job) -> Job:
    """The same job, of which each process holds a part of the network."""
    return dataclasses.replace(job, compute=job.compute.model_copy(update={"strategy": "fsdp"}))


JOBS |= {"pictures in parts": lambda folder: in_parts(recomputed(pictures_job(folder)))}
JOBS |= {"anomalies in parts": lambda folder: in_parts(pictures_job(folder, "anomaly"))}
AGAIN: dict[str, Callable[[Path], Job]] = {
    "whole": rows_job, "in parts": lambda folder: in_parts(rows_job(folder)),
}  # fmt: skip


def fitted(job: Job, folder: Path, until: int | None = None) -> dict[str, Any]:
    """What a training gives: weights, curves, and what the doctor saw; `until` an epoch it is broken off."""
    curves: list[dict[str, float]] = []

    class Broken(Exception):
        pass

    def hook(epoch: int, metrics: dict[str, float]) -> None:
        curves.append({name: metrics[name] for name in ("train_loss", "val_loss", "val_score", "lr")})
        if epoch == until:
            raise Broken

    doctor, parts, served = Doctor(), Parts(), None
    with contextlib.suppress(Broken):
        served = fit(job, [hook], folder, [doctor, parts])
    return {
        "weights": served and held(served),
        "curves": curves,
        "looks": [look["norm"] for look in doctor.looks],
        "parts": parts.seen,
    }


def held(served: Served) -> dict[str, torch.Tensor]:
    """The weights of a plain network: its class names are those that were built."""
    names = {type(module).__name__ for module in served.modules()}
    assert not {name for name in names if "ynchronised" in name or "FSDP" in name}, names
    return served.state_dict()


def in_two(work: Callable[..., None], folder: Path) -> None:
    """Run `work(rank, folder)` in two processes of one group."""
    multiprocessing.spawn(_joined, (work, folder), nprocs=WORLD)  # type: ignore[no-untyped-call]


def _joined(rank: int, work: Callable[..., None], folder: Path) -> None:
    torch.set_num_threads(1)
    loopback()
    store = distributed.FileStore(str(folder / "store"), WORLD)  # type: ignore[attr-defined]
    with contextlib.chdir(folder), joined(Place(rank, WORLD, rank, WORLD), torch.device("cpu"), store=store):
        work(rank, folder)


class Parts(Callback):
    """Counts what this process holds of the network's parameters after each step, and what there are."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, int]] = set()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        weights = [weight for name, weight in pl_module.named_parameters() if name.startswith("served")]
        mine = sum((w.to_local() if isinstance(w, DTensor) else w).numel() for w in weights)
        self.seen.add((mine, sum(weight.numel() for weight in weights)))


def everything(rank: int, folder: Path) -> None:
    """All that the tests look at, by one start of two processes."""
    for name in ("none", "over", "under", "val"):
        batches = made(folder, name)
        for epoch in range(2):
            batches.set_epoch(epoch)
            found = [inputs[:, 0].numpy() for inputs, _ in batches]
            assert len(found) == len(batches)
            np.savez(folder / f"{name}-{epoch}-{rank}.npz", *found)
    for name, job in JOBS.items():
        torch.save(fitted(job(folder), folder / "two" / name), folder / f"{name}-{rank}.pt")
    for name, job in AGAIN.items():
        checkpoints = folder / "two" / f"again-{name}"
        fitted(job(folder), checkpoints, until=1)
        torch.save(fitted(job(folder), checkpoints), folder / f"again-{name}-{rank}.pt")


def made(folder: Path, name: str) -> Batches:
    """The batches of a sampling, or of validation."""
    rows = folder / "rows"
    if name == "val":
        return Batches(rows / "val", 8, torch.device("cpu"))
    sampling: Sampling = name  # type: ignore[assignment]
    return Batches(rows / "train", 8, torch.device("cpu"), shuffle_seed=5, sampling=sampling)


def with_processes(job: Job, count: int) -> Job:
    """The same job for so many processes."""
    return dataclasses.replace(job, compute=job.compute.model_copy(update={"processes": count}))
