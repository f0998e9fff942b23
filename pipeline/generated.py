"""The pictures that `evaluate` draws of a generator: images of every class, and the training images nearest to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.core.dataset import Dataset
from pipeline.generation import Judge
from pipeline.pictures import grid
from serving.inputs.generation import picture

ACROSS, DOWN = 12, 30  # images of a class, and classes, that are shown
PAIRS = 48


def draw(test: Dataset, train: Dataset, outputs: np.ndarray, folder: Path) -> None:
    """Write `generated.png`, a row a class, and `neighbours.png`, each image and the nearest of training."""
    spec = test.spec
    images = np.stack([picture(row, spec) for row in outputs])
    shown = []
    for label in range(min(len(spec.classes), DOWN)):
        rows = np.flatnonzero(test.targets == label)[:ACROSS]
        blank = np.zeros((ACROSS - len(rows), *spec.input_shape), np.uint8)
        shown.append(np.concatenate([images[rows], blank]))
    grid(np.concatenate(shown), ACROSS).save(folder / "generated.png")
    some = np.unique(np.linspace(0, len(images) - 1, min(PAIRS, len(images))).astype(int))
    _, nearest = Judge(train).nearest(images[some])
    pairs = [
        image for at, near in zip(some, nearest, strict=True) for image in (images[at], train.inputs[near])
    ]
    grid(np.stack(pairs), 2 * (ACROSS // 2)).save(folder / "neighbours.png")
