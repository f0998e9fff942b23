"""Scaling of images and tables, and what all scaling shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.dataset import Dataset
from pipeline.transforms.base import Chunk, Moments, training_chunks
from serving.inputs.spec import Transform


class Scaled(ABC):
    """Moments of `flat(rows)`, (n, C), over the training rows, and those of regression targets."""

    def __init__(self, dataset: Dataset, train: np.ndarray, folder: Path) -> None:
        del folder
        self.spec = dataset.spec
        moments, targets = None, Moments(len(self.spec.targets))
        for rows, values in training_chunks(dataset, train):
            flat = self.flat(rows)
            moments = moments or Moments(flat.shape[1])
            moments.update(flat)
            if self.spec.task == "regression":
                targets.update(values)
        assert moments is not None
        mean, std = moments.result()
        target_mean, target_std = targets.result()
        self.transform = Transform(
            mean=mean, std=std, known=self.known(dataset, train),
            target_mean=target_mean, target_std=target_std,
        )  # fmt: skip

    @abstractmethod
    def flat(self, rows: Any) -> np.ndarray:
        """The rows' values by channel: (n, C)."""

    def known(self, dataset: Dataset, train: np.ndarray) -> tuple[tuple[bool, ...], ...]:
        """Which codes of each category occur in training."""
        del dataset, train
        return ()

    def encode(self, chunk: Chunk) -> Chunk:
        """The chunk as it is: scaling is part of the network's graph."""
        return chunk


class ScaledImages(Scaled):
    """Moments of each channel of images (n, C, H, W)."""

    def flat(self, rows: Any) -> np.ndarray:
        """Pixels by channel."""
        return np.moveaxis(rows, 1, -1).reshape(-1, rows.shape[1])


class ScaledTable(Scaled):
    """Moments of each number, and the categories that training holds."""

    def flat(self, rows: Any) -> np.ndarray:
        """The numbers of the rows."""
        assert self.spec.table is not None
        return rows[:, : len(self.spec.table.numbers)]

    def known(self, dataset: Dataset, train: np.ndarray) -> tuple[tuple[bool, ...], ...]:
        """Which codes of each category occur in training; code 0, nothing known, always does."""
        assert self.spec.table is not None
        numbers, categories = len(self.spec.table.numbers), self.spec.table.categories
        seen = [np.zeros(len(field.categories) + 1, bool) for field in categories]
        for rows, _ in training_chunks(dataset, train):
            for at, found in enumerate(seen):
                found[rows[:, numbers + at].astype(np.int64)] = True
        for found in seen:
            found[0] = True
        return tuple(tuple(map(bool, found)) for found in seen)
