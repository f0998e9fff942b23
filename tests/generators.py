"""What tests of generators share: tiny images of two classes, and jobs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.params import Model
from pipeline.fitting.fit import Job, Train
from serving.inputs.spec import DataSpec, Transform
from tests.conftest import spec_of, write_dataset
from tests.small import CPU

FITTED = Transform(mean=(60.0,), std=(80.0,))
ODD = (3, 15, 18)


def spec_for(shape: tuple[int, ...] = (1, 8, 8), classes: str = "ab") -> DataSpec:
    return spec_of(shape, classes).model_copy(update={"task": "generation"})


def params(**more: Any) -> Model:
    return Model.model_validate({"family": "gan", "width": 6, "depth": 1, "latent": 4, "dropout": 0, **more})


def halves(count: int, seed: int, rare: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 8, 8) uint8: class 0 is bright above, class 1 below; with `rare`, so many are of class 1."""
    draw = np.random.default_rng(seed)
    labels = (np.arange(count) < rare).astype(np.int64) if rare else np.arange(count, dtype=np.int64) % 2
    images = draw.integers(0, 60, (count, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * label : 4 * label + 4] += draw.integers(120, 190)
    return images.astype(np.uint8), labels


def job_of(folder: Path, seed: int = 7, model: dict[str, Any] | None = None, **settings: Any) -> Job:
    if not (folder / "train").exists():
        write_dataset(folder / "train", *halves(192, 0), ("a", "b"))
        write_dataset(folder / "val", *halves(64, 1), ("a", "b"))
    given = {"max_epochs": 12, "batch_size": 16, "lr": 0.004, "weight_decay": 0, "warmup": 0.02, "patience": 0,
             "ema": 0.95, "gradient_clip": 0.0, "augmentation": {"strength": 0}, **settings}  # fmt: skip
    return Job(
        params(**(model or {})), Train.model_validate(given), spec_for(), FITTED, folder / "train", folder / "val",
        seed, CPU,
    )  # fmt: skip
