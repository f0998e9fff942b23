"""Training throughput with random transforms: our loop, one tuned by hand, and a DataLoader that transforms one by one.

All train the same network with the same optimiser, clipping and schedule, on a GPU in bf16 where there is one (and
then on larger images too), else on the CPU. Ours is `fit` as the stages call it; its rate is that of the epochs after
the first, validation of two samples included. The one tuned by hand holds the images on the device, transforms whole
batches there by the same module, and never waits for a number. The naive one is PyTorch's DataLoader with its defaults,
and one affine transform and erasing a picture by Pillow; with workers it is named so. Utilisation is what `nvidia-smi`
says, or the share of all cores that the process had.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from models.params import Model
from models.served import Served
from pipeline.core.dataset import DatasetWriter, image_columns
from pipeline.fitting.augmentation import build as build_augmentation
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train, fit
from pipeline.fitting.trainer import device_of, threads_for
from serving.inputs.spec import DataSpec, ImageInput, Transform

ROUNDS = 3
ASKED = {"tuned by hand": 0.95, "naive": 10.0}  # on a GPU: ours over it


class Size(NamedTuple):
    """What is trained: images (C, side, side), how many, and the network."""

    samples: int
    channels: int
    side: int
    batch: int
    epochs: int
    model: Model


CPU = {"default network": Size(3_400, 1, 28, 128, 3, Model())}
GPU = {
    "default network": Size(50_000, 1, 28, 1024, 4, Model()),
    "larger network": Size(40_000, 3, 64, 512, 4, Model(width=64, depth=4)),
}


class Samples(Dataset):  # type: ignore[type-arg]
    """Pictures one at a time, each transformed as a tutorial does it."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, train: Train) -> None:
        self.images, self.labels, self.given = images, labels, train.augmentation

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        image = self.images[at]
        height, width = image.shape[1:]
        planes = [Image.fromarray(plane).transform((width, height), Image.Transform.AFFINE, self._affine(width, height),
                                                   Image.Resampling.BILINEAR) for plane in image]  # fmt: skip
        pixels = torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]).copy())
        if random.random() < self.given.erasing:
            side = max(1, round(math.sqrt(random.uniform(0.02, 0.1)) * min(height, width)))
            top, left = random.randrange(height - side + 1), random.randrange(width - side + 1)
            pixels[:, top : top + side, left : left + side] = 0
        return pixels, int(self.labels[at])

    def _affine(self, width: int, height: int) -> tuple[float, ...]:
        given = self.given
        turn = math.radians(random.uniform(-given.rotation, given.rotation))
        zoom = 1 / random.uniform(1 - given.scale, 1 + given.scale)
        slant = math.tan(math.radians(random.uniform(-given.shear, given.shear)))
        a, b = zoom * math.cos(turn), zoom * (slant + math.sin(turn))
        d, e = -zoom * math.sin(turn), zoom * math.cos(turn)
        x = width / 2 + random.uniform(-given.shift, given.shift) * width
        y = height / 2 + random.uniform(-given.shift, given.shift) * height
        return a, b, width / 2 - a * x - b * y, d, e, height / 2 - d * x - e * y


class Data(NamedTuple):
    """Images (N, C, H, W) uint8 and their classes (N,), as arrays and as a job on a folder of them."""

    images: np.ndarray
    labels: np.ndarray
    job: Job


def data_of(size: Size, folder: Path) -> Data:
    """Random images of ten classes."""
    draw = np.random.default_rng(0)
    shape = (size.channels, size.side, size.side)
    images = draw.integers(0, 256, (size.samples, *shape), np.uint8)
    labels = draw.integers(0, 10, size.samples)
    spec = DataSpec(
        modality="image", task="classification", source="benchmark", columns=image_columns(shape),
        classes=tuple("0123456789"),
        image=ImageInput(channels=size.channels, height=size.side, width=size.side),
    )  # fmt: skip
    for name, rows in (("train", slice(None)), ("val", slice(2))):
        ids = np.array([f"{row:064}" for row in range(len(labels[rows]))], "S64")
        with DatasetWriter(folder / name, spec) as writer:
            writer.append({"image": images[rows], "label": labels[rows], "id": ids})
    fitted = Transform(mean=(127.0,) * size.channels, std=(74.0,) * size.channels)
    train = Train(max_epochs=size.epochs, batch_size=size.batch, patience=0)
    return Data(
        images, labels, Job(size.model, train, spec, fitted, folder / "train", folder / "val", 0, Compute())
    )


def ours(data: Data) -> float:
    """Images a second of `fit`, after its first epoch."""
    ends: list[float] = []
    fit(data.job, [lambda epoch, metrics: ends.append(time.perf_counter())])
    return len(data.labels) * (len(ends) - 1) / (ends[-1] - ends[0])


def by_hand(data: Data) -> float:
    """Images a second of a plain loop over slices of what lies on the device."""
    job, device = data.job, device_of(data.job.compute)
    images, labels = (torch.from_numpy(each).to(device) for each in (data.images, data.labels))
    augment = build_augmentation(job.train.augmentation, job.spec, job.transform)
    size = job.train.batch_size

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in torch.randperm(len(labels), device=device).split(size):
            yield augment(images[rows]), labels[rows]

    return plain(data, batches, len(labels))


def naive(data: Data, samples: int, workers: int = 0) -> float:
    """Images a second of a DataLoader over some of the samples."""
    device = device_of(data.job.compute)
    given = Samples(data.images[:samples], data.labels[:samples], data.job.train)
    loader = DataLoader(
        given, data.job.train.batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for inputs, targets in loader:
            yield inputs.to(device), targets.to(device)

    return plain(data, batches, len(given), epochs=2)


def plain(data: Data, batches: Callable[[], Iterator[Any]], samples: int, epochs: int = 0) -> float:
    """A loop as one writes it by hand, with all that ours does to a batch; the first epoch warms up."""
    job, device, epochs = data.job, device_of(data.job.compute), epochs or data.job.train.max_epochs
    served = Served(job.model, job.spec, job.transform).to(device).train()
    optimiser = torch.optim.AdamW(
        served.parameters(), job.train.lr, weight_decay=job.train.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, epochs * -(-samples // job.train.batch_size)
    )
    half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    began = 0.0
    for epoch in range(epochs):
        total = torch.zeros((), device=device)
        for inputs, targets in batches():
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                logits = served.raw(inputs)
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=job.train.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(served.parameters(), job.train.gradient_clip)
            optimiser.step()
            schedule.step()
            total += loss.detach()
        float(total)  # waits for the device
        began = began if epoch else time.perf_counter()
    return samples * (epochs - 1) / (time.perf_counter() - began)


@contextmanager
def watched(device: torch.device) -> Iterator[list[float]]:
    """Notes in the list that it gives what share of the device was in use meanwhile."""
    found: list[float] = []
    if device.type == "cuda" and (tool := shutil.which("nvidia-smi")):
        words = [tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watcher:
            yield found
            watcher.terminate()
            said, _ = watcher.communicate()
        found.append(
            statistics.mean([float(line) / 100 for line in said.split() if line.isdigit()] or [math.nan])
        )
        return
    process, began = psutil.Process(), time.perf_counter()
    before = sum(process.cpu_times()[:2])
    yield found
    spent = sum(process.cpu_times()[:2]) - before
    found.append(spent / (time.perf_counter() - began) / (os.cpu_count() or 1))


def compared(size: Size) -> dict[str, float]:
    """Images a second of each loop, ours over the others (median of rounds taken in turn), and utilisation."""
    with TemporaryDirectory() as scratch:
        data = data_of(size, Path(scratch))
        device = device_of(data.job.compute)
        torch.set_num_threads(threads_for(data.job))
        few = min(size.samples, 4 * size.batch)
        loops: dict[str, Callable[[], float]] = {
            "ours": lambda: ours(data), "tuned by hand": lambda: by_hand(data), "naive": lambda: naive(data, few),
        }  # fmt: skip
        if (cores := os.cpu_count() or 1) > 2:
            loops[f"naive, {min(8, cores)} workers"] = lambda: naive(data, size.samples, min(8, cores))
        rates: dict[str, list[float]] = {name: [] for name in loops}
        used: dict[str, float] = {}
        for _ in range(ROUNDS):
            for name, loop in loops.items():
                with watched(device) as share:
                    rates[name].append(loop())
                used[name] = share[0]
    figures = {f"{name}, images a second": statistics.median(each) for name, each in rates.items()}
    for name, each in rates.items():
        if name != "ours":
            pairs = [own / other for own, other in zip(rates["ours"], each, strict=True)]
            figures[f"ours over {name} (median of rounds)"] = statistics.median(pairs)
    return figures | {f"{name}, utilisation": share for name, share in used.items()}


def run() -> dict[str, Any]:
    """The figures of every size, on a GPU where there is one; `file` names its results by the device."""
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "CPU"
    found: dict[str, Any] = {"file": f"throughput-{device.lower().replace(' ', '-')}", "device": device}
    for name, size in (GPU if cuda else CPU).items():
        found |= {f"{name}: {key}": value for key, value in compared(size).items()}
        if cuda:
            for other, least in ASKED.items():
                reached = found[f"{name}: ours over {other} (median of rounds)"] >= least
                found[f"{name}: at least {least:g} times {other}"] = reached
    return found
