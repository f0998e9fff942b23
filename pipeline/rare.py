"""Images of small classes from a GAN that learns from the training split alone, every class as often as the largest."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field
from tqdm import tqdm

from pipeline.core.dataset import Dataset
from pipeline.core.params import Section, UserError
from pipeline.fitting.compute import Compute
from serving.inputs.generation import HEAD, SEEDS, canonical
from serving.inputs.spec import Transform


class Gan(Section):
    """The network whose images fill up small classes, and its training."""

    max_epochs: int = Field(30, ge=1, le=10_000, description="Epochs; each shows all classes alike.")
    batch_size: int = Field(32, ge=2, le=65_536, description="Samples in a batch.")
    lr: float = Field(0.001, gt=0, le=1, description="Peak learning rate.")
    width: int = Field(24, ge=1, le=4096, description="Channels of the generator's last layer.")
    depth: int = Field(2, ge=1, le=64, description="Doublings of an image's sides.")
    latent: int = Field(64, ge=1, le=1024, description="Values of the noise.")


def missing(labels: np.ndarray) -> np.ndarray:
    """A label for each sample that is missing until every class that occurs is as large as the largest.

    >>> missing(np.array([0, 0, 0, 2])).tolist()
    [2, 2]
    """
    counts = np.bincount(labels)
    return np.repeat(np.arange(len(counts)), np.where(counts > 0, counts.max() - counts, 0))


def generate(
    dataset: Dataset, transform: Transform, settings: Gan, seed: int, compute: Compute
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, C, H, W) uint8 and their labels (n,), as many as `missing` says.

    Raises:
        UserError: the data are no images with classes.
    """
    spec = dataset.spec
    if spec.modality != "image" or spec.task != "classification":
        raise UserError(
            f"augment.oversample: 'gan' makes images of classes, and this is {spec.modality} {spec.task}; "
            "for tables with classes there is 'smote', and 'none' leaves all as it is"
        )
    labels = missing(dataset.targets)
    if not len(labels):
        return np.zeros((0, *spec.input_shape), np.uint8), labels
    import torch

    served = _fitted(dataset, transform, settings, seed, compute)
    parts = []
    for start in range(0, len(labels), 512):
        some = labels[start : start + 512]
        rows = [canonical(int(label), (start + at) % SEEDS, settings.latent) for at, label in enumerate(some)]
        with torch.inference_mode():
            found = served(torch.from_numpy(np.stack(rows))).numpy()[:, HEAD:]
        parts.append(found.round().clip(0, 255).astype(np.uint8).reshape(-1, *spec.input_shape))
    return np.concatenate(parts), labels


def _fitted(dataset: Dataset, transform: Transform, settings: Gan, seed: int, compute: Compute) -> Any:
    """The generator; what it is measured by while it trains is the training split, too, so nothing else is seen."""
    from models.params import Model
    from pipeline.fitting.augmentation import Augmentation
    from pipeline.fitting.diagnoses import diagnose
    from pipeline.fitting.doctor import Doctor
    from pipeline.fitting.fit import Job, Train, fit

    model = Model(family="gan", width=settings.width, depth=settings.depth, latent=settings.latent, dropout=0)
    train = Train(
        max_epochs=settings.max_epochs, batch_size=settings.batch_size, lr=settings.lr, weight_decay=0,
        warmup=0.02, ema=0.995, patience=0, gradient_clip=0, sampling="over", augmentation=Augmentation(strength=0),
    )  # fmt: skip
    spec = dataset.spec.model_copy(update={"task": "generation"})
    job = Job(model, train, spec, transform, dataset.folder, dataset.folder, seed, compute)
    doctor = Doctor()
    with tqdm(total=settings.max_epochs, desc="augment: gan", unit=" epochs", leave=False) as bar:

        def step(epoch: int, metrics: dict[str, float]) -> None:
            bar.update()

        served = fit(job, [step], callbacks=[doctor])
    for diagnosis in diagnose(doctor.facts):
        print(f"augment: {diagnosis}")
    return served
