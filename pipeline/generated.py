"""The pictures that `evaluate` draws of a generator: images of every class, and those nearest to a training image."""

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
    """Write `generated.png`, a row a class, and `mistakes.png`: what looks most like a copy, beside its original."""
    spec = test.spec
    images = np.stack([picture(row, spec) for row in outputs])
    shown = []
    for label in range(min(len(spec.classes), DOWN)):
        rows = np.flatnonzero(test.targets == label)[:ACROSS]
        blank = np.zeros((ACROSS - len(rows), *spec.input_shape), np.uint8)
        shown.append(np.concatenate([images[rows], blank]))
    grid(np.concatenate(shown), ACROSS).save(folder / "generated.png")
    distances, nearest = Judge(train).nearest(images)
    closest = np.argsort(distances, kind="stable")[:PAIRS]
    pairs = [image for at in closest for image in (images[at], train.inputs[nearest[at]])]
    grid(np.stack(pairs), 2 * (ACROSS // 2)).save(folder / "mistakes.png")
