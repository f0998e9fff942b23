"""Regression metrics, weighted as those of `metrics`, and the pictures of a regression.

Targets and outputs have shape (N, M); each metric is the mean over the M targets. Weights are (B, N).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.core.tables import write_csv
from serving.inputs.spec import DataSpec

SHOWN = 5000  # points of a scatter plot at most


def mse(weights: np.ndarray, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Mean squared error, in squared units of the target, shape (B,)."""
    squares = (outputs.astype(np.float64) - targets) ** 2
    return (weights @ squares).mean(1) / weights.sum(1)


def rmse(weights: np.ndarray, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Root of the mean squared error, in units of the target, shape (B,)."""
    squares = (outputs.astype(np.float64) - targets) ** 2
    return np.sqrt(weights @ squares / weights.sum(1, keepdims=True)).mean(1)


def mae(weights: np.ndarray, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Mean absolute error, in units of the target, shape (B,)."""
    errors = np.abs(outputs.astype(np.float64) - targets)
    return (weights @ errors).mean(1) / weights.sum(1)


def r2(weights: np.ndarray, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Share of the variance that is explained, shape (B,); NaN where a target is constant."""
    error = weights @ (outputs.astype(np.float64) - targets) ** 2
    targets = targets.astype(np.float64) - targets[0]  # near zero, so that squares lose no digits
    total = weights.sum(1, keepdims=True)
    squares = weights @ targets**2
    spread = squares - (weights @ targets) ** 2 / total
    spread = np.where(spread > 1e-12 * squares, spread, 0)  # what is left of a constant by rounding
    return (1 - np.divide(error, spread, out=np.full_like(error, np.nan), where=spread > 0)).mean(1)


def draw(spec: DataSpec, targets: np.ndarray, outputs: np.ndarray, folder: Path) -> None:
    """Write `residuals.csv` and pictures: said against true, residuals, and their quantiles for each target."""
    from matplotlib.figure import Figure

    columns = list(spec.targets)
    shown = np.unique(np.linspace(0, len(targets) - 1, SHOWN).astype(int))  # the file may be in some order
    targets, outputs = targets[shown], outputs[shown]
    rows = [(name, float(t), float(o), float(o - t)) for at, name in enumerate(columns)
            for t, o in zip(targets[:, at], outputs[:, at], strict=True)]  # fmt: skip
    write_csv(folder / "residuals.csv", ["target", "true", "said", "residual"], rows)
    figure = Figure(figsize=(9, 4.0 * len(columns)), layout="constrained")
    for at, name in enumerate(columns):
        true, said = targets[:, at], outputs[:, at]
        left = figure.add_subplot(
            len(columns), 2, 2 * at + 1, xlabel=f"true {name}", ylabel="said", title="Said and true"
        )
        left.scatter(true, said, s=6, alpha=0.4)
        ends = [min(true.min(), said.min()), max(true.max(), said.max())]
        left.plot(ends, ends, color="grey", linestyle="--", linewidth=1)
        right = figure.add_subplot(
            len(columns), 2, 2 * at + 2, xlabel="said", ylabel="said - true", title="Residuals"
        )
        right.scatter(said, said - true, s=6, alpha=0.4)
        right.axhline(0, color="grey", linestyle="--", linewidth=1)
    figure.savefig(folder / "residuals.png", dpi=100)
