"""What fits share: moments in one pass, the training rows in chunks, and what a fit gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from pipeline.core.dataset import Dataset
from serving.inputs.spec import DataSpec, Transform

Chunk = dict[str, Any]


class Moments:
    """Mean and standard deviation of each column of values (n, C), accumulated; NaN is left out."""

    def __init__(self, size: int) -> None:
        self.count, self.sum, self.squares = np.zeros(size), np.zeros(size), np.zeros(size)

    def update(self, values: np.ndarray) -> None:
        """Add values (n, C)."""
        values = values.astype(np.float64)
        there = ~np.isnan(values)
        filled = np.where(there, values, 0)
        self.count += there.sum(0)
        self.sum += filled.sum(0)
        self.squares += np.square(filled).sum(0)

    def result(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation; a constant column gets a deviation of 1."""
        count = np.maximum(self.count, 1)
        mean = self.sum / count
        std = np.sqrt(np.maximum(self.squares / count - mean**2, 0))
        std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1), std, 1.0)
        return tuple(mean.tolist()), tuple(std.tolist())


class Fitted(Protocol):
    """A fitted transform, what the splits' spec is, and how a chunk of `ingest` becomes one of a split."""

    transform: Transform
    spec: DataSpec

    def encode(self, chunk: Chunk) -> Chunk:
        """The chunk as a split holds it."""
        ...


def training_chunks(dataset: Dataset, train: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """Inputs and targets of the training rows, chunk by chunk."""
    names = [dataset.spec.input.name, dataset.spec.target.name]
    start = 0
    for chunk in dataset.chunks(names):
        rows, values = chunk[names[0]], chunk[names[1]]
        mine = train[start : start + len(values)]
        start += len(values)
        if mine.any():
            yield rows[mine], values[mine]
