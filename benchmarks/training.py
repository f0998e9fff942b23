"""Training throughput of the default network: our loop against two hand-written ones, turn by turn.

All three train the same network on the same samples with the same optimiser and no augmentation, so that what
is compared is the loop: ours (Lightning, index batches, with its set-up and its validation); the loop of PyTorch's own
MNIST example, a DataLoader over samples that are converted and normalised one at a time; and a plain loop over index
batches of an in-memory tensor, which is the floor.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from models.params import Model
from models.served import Served
from pipeline.core.dataset import DatasetWriter, image_columns
from pipeline.fitting.augmentation import Augmentation
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train, fit
from serving.inputs.spec import DataSpec, ImageInput, Transform

ROUNDS, EPOCHS, SAMPLES = 5, 3, 3400
MODEL = Model()
TRAIN = Train(max_epochs=EPOCHS, patience=0, augmentation=Augmentation(strength=0))
TRANSFORM = Transform(mean=(33.0,), std=(78.0,))


def write(folder: Path, images: np.ndarray, labels: np.ndarray) -> DataSpec:
    """Write a data set folder."""
    spec = DataSpec(
        modality="image", task="classification", source="benchmark", columns=image_columns((1, 28, 28)),
        classes=tuple("0123456789"), image=ImageInput(),
    )  # fmt: skip
    ids = np.array([f"{row:064}" for row in range(len(labels))], "S64")
    with DatasetWriter(folder, spec) as writer:
        writer.append({"image": images, "label": labels, "id": ids})
    return spec


def plain(batches: object, served: Served, net: nn.Module) -> None:
    """A loop as a tutorial writes it: batches of (inputs, targets), AdamW, clipping, a scheduler."""
    optimiser = torch.optim.AdamW(
        served.parameters(), lr=TRAIN.lr, weight_decay=TRAIN.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, EPOCHS * (SAMPLES // TRAIN.batch_size + 1)
    )
    for _ in range(EPOCHS):
        served.train()
        for inputs, targets in batches:  # type: ignore[attr-defined]
            loss = F.cross_entropy(net(inputs), targets, label_smoothing=TRAIN.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(served.parameters(), TRAIN.gradient_clip)
            optimiser.step()
            schedule.step()


class Samples(Dataset):
    """What torchvision's MNIST data set, `ToTensor` and `Normalize` do, written out: they have no build here."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        picture = Image.fromarray(self.images[at, 0].numpy())
        tensor = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(28, 28, 1)
        tensor = tensor.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean, std = torch.as_tensor(TRANSFORM.mean) / 255, torch.as_tensor(TRANSFORM.std) / 255
        return tensor.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1)), int(self.labels[at])


class IndexBatches:
    """Shuffled slices of in-memory tensors."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __iter__(self):
        order = torch.randperm(len(self.labels))
        for at in range(0, len(order), TRAIN.batch_size):
            index = order[at : at + TRAIN.batch_size]
            yield self.images[index], self.labels[index]


class Logits(nn.Module):
    """Normalises a whole batch, then the network."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) uint8 to logits (N, K)."""
        return self.served.raw(x)


def timed(work: object) -> float:
    """Seconds that `work()` takes."""
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def run() -> dict[str, float]:
    """Images a second of each loop, and ours over the other two (median of rounds taken in turn)."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (SAMPLES, 1, 28, 28), np.uint8)
    labels = generator.integers(0, 10, SAMPLES)
    tensors = torch.from_numpy(images), torch.from_numpy(labels)
    loader = DataLoader(Samples(*tensors), TRAIN.batch_size, shuffle=True)
    seconds: dict[str, list[float]] = {"ours": [], "dataloader": [], "in_memory": []}
    with TemporaryDirectory() as scratch:
        spec = write(Path(scratch) / "train", images, labels)
        write(Path(scratch) / "val", images[:2], labels[:2])
        job = Job(MODEL, TRAIN, spec, TRANSFORM, Path(scratch) / "train", Path(scratch) / "val", 0, Compute())

        def fresh() -> Served:
            return Served(MODEL, spec, TRANSFORM)

        fit(job, [])  # everything is loaded and warm before the first round
        for _ in range(ROUNDS):
            seconds["ours"].append(timed(lambda: fit(job, [])))
            one, two = fresh(), fresh()
            seconds["dataloader"].append(timed(lambda net=one: plain(loader, net, net.net)))
            batches = IndexBatches(*tensors)
            seconds["in_memory"].append(
                timed(lambda net=two, batches=batches: plain(batches, net, Logits(net)))
            )
    speed = {name: SAMPLES * EPOCHS / statistics.median(each) for name, each in seconds.items()}
    ratio = {
        f"ours over {name} (median of pairs)": statistics.median(
            other / own for own, other in zip(seconds["ours"], seconds[name], strict=True)
        )
        for name in ("dataloader", "in_memory")
    }
    return {f"{name}, images a second": value for name, value in speed.items()} | ratio
