"""What forecasts are held against: the naive forecast, which says that the last value stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.core.dataset import Dataset
from serving.inputs.spec import SeriesInput

SHOWN = 12


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


def draw(dataset: Dataset, targets: np.ndarray, outputs: np.ndarray, folder: Path) -> None:
    """Write `forecasts.png`: windows, what followed, and what was forecast, of the first channel."""
    from matplotlib.figure import Figure

    series = dataset.spec.series
    assert series is not None
    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle(f"Forecasts of {series.forecasts[0]} (test)")
    channel, horizon = series.channels.index(series.forecasts[0]), series.horizon
    for place, at in enumerate(np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset))).astype(int)):
        axes = figure.add_subplot(3, 4, place + 1)
        steps = dataset.inputs[int(at)][:, channel]
        after = np.arange(len(steps), len(steps) + horizon)
        axes.plot(steps, color="grey", linewidth=0.8)
        axes.plot(after, targets[at, :horizon], color="black", linewidth=1.2, label="true")
        axes.plot(after, outputs[at, :horizon], color="tab:red", linewidth=1.2, label="forecast")
        axes.tick_params(labelsize=6)
        if not place:
            axes.legend(fontsize=6)
    figure.savefig(folder / "forecasts.png", dpi=100)
