"""What forecasts are held against: the naive forecast, which says that the last value stays."""

from __future__ import annotations

import numpy as np

from pipeline.core.dataset import Dataset
from serving.inputs.spec import SeriesInput


def naive(dataset: Dataset) -> np.ndarray:
    """The last known value of each channel to forecast for every step, (N, M) float32; 0 where none is known."""
    series = dataset.spec.series
    assert series is not None
    return np.stack([last_values(dataset.inputs[at], series) for at in range(len(dataset))])


def last_values(steps: np.ndarray, series: SeriesInput) -> np.ndarray:
    """The naive forecast from one window (T, C): (M,) float32, channel by channel."""
    found = []
    for name in series.forecasts:
        values = steps[:, series.channels.index(name)]
        known = values[~np.isnan(values)]
        found += [known[-1] if len(known) else 0.0] * series.horizon
    return np.array(found, np.float32)


def mase(weights: np.ndarray, targets: np.ndarray, outputs: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Mean absolute error over that of the naive forecast in training, `scale` (M,); below 1 is better, shape (B,).

    After Hyndman and Koehler, "Another look at measures of forecast accuracy" (2006); differs in taking the naive
    forecast at the same horizon as the forecast.
    """
    errors = np.abs(outputs.astype(np.float64) - targets) / scale
    return (weights @ errors).mean(1) / weights.sum(1)
