"""Scaling of series: by all of training, or each by itself with its level beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.dataset import Dataset
from pipeline.forecasting import last_values
from pipeline.transforms.base import Moments, training_chunks
from pipeline.transforms.scaled import Scaled
from serving.inputs.ragged import Ragged
from serving.inputs.series import FLAT, LEAST


class ScaledSeries(Scaled):
    """Moments of each channel of ragged series, and which have gaps; of forecasts also the error of the naive one."""

    def __init__(self, dataset: Dataset, train: np.ndarray, folder: Path) -> None:
        super().__init__(dataset, train, folder)
        series = dataset.spec.series
        assert series is not None
        gaps = np.zeros(len(series.channels), bool)
        for rows, _ in training_chunks(dataset, train):
            gaps |= np.isnan(rows.values).any(axis=0)
        self.transform = self.transform.model_copy(update={"gaps": tuple(np.flatnonzero(gaps).tolist())})
        if series.horizon:
            errors, count = np.zeros(len(dataset.spec.targets)), 0
            for rows, values in training_chunks(dataset, train):
                last = np.stack([last_values(rows[at], series) for at in range(len(rows))])
                errors += np.abs(last.astype(np.float64) - values).sum(axis=0)
                count += len(values)
            scale = tuple(np.maximum(errors / max(count, 1), 1e-12).tolist())
            self.transform = self.transform.model_copy(update={"naive_error": scale})

    def flat(self, rows: Any) -> np.ndarray:
        """Steps of all rows."""
        assert isinstance(rows, Ragged)
        return rows.values


class LevelledSeries(ScaledSeries):
    """Beside these the moments of the levels of series, as each is scaled by itself."""

    def __init__(self, dataset: Dataset, train: np.ndarray, folder: Path) -> None:
        super().__init__(dataset, train, folder)
        moments = Moments(2 * len(self.transform.mean))
        for rows, _ in training_chunks(dataset, train):
            moments.update(levels(rows))
        mean, std = moments.result()
        self.transform = self.transform.model_copy(update={"level_mean": mean, "level_std": std})


def levels(rows: Ragged) -> np.ndarray:
    """Levels (N, 2 C) of series (T, C): logarithms of deviations, then means in deviations by `asinh`.

    What `models/fronts.py` computes in float32; NaN where a channel of a series holds nothing.
    """
    starts = np.asarray(rows.offsets[:-1])
    values = rows.values.astype(np.float64)
    there = ~np.isnan(values)
    count = np.add.reduceat(there.astype(np.int64), starts)
    peak = np.maximum(np.maximum.reduceat(np.where(there, np.abs(values), 0), starts), LEAST)
    shares = np.where(there, values / np.repeat(peak, rows.lengths, axis=0), 0)
    mean = np.add.reduceat(shares, starts) / np.maximum(count, 1)
    off = np.where(there, shares - np.repeat(mean, rows.lengths, axis=0), 0)
    std = np.sqrt(np.add.reduceat(np.square(off), starts) / np.maximum(count, 1))
    std = np.maximum(std, FLAT)
    found = np.concatenate([np.log(peak * std), np.arcsinh(mean / std)], axis=1)
    return np.where(np.tile(count > 0, 2), found, np.nan)
