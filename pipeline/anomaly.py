"""Metrics of an anomaly score, weighted as those of `metrics`, and its picture.

Labels (N,) are 0 for normal and 1 for an anomaly; of the outputs (N, 1 + latent) the first is the score, and a score
above 1 raises the alarm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.core.ranking import average_precision_of, ratio, roc_auc_of


def roc_auc(weights: np.ndarray, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Share of pairs of an anomaly and a normal sample that the score puts in order, shape (B,)."""
    return roc_auc_of(weights, labels == 1, outputs[:, 0])


def average_precision(weights: np.ndarray, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Step-wise area under the precision-recall curve of the anomalies, shape (B,)."""
    return average_precision_of(weights, labels == 1, outputs[:, 0])


def recall(weights: np.ndarray, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Share of anomalies that raise the alarm, shape (B,)."""
    there = labels == 1
    return ratio(weights @ (there & (outputs[:, 0] > 1)), weights @ there)


def false_alarms(weights: np.ndarray, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Share of normal samples that raise the alarm, shape (B,)."""
    normal = labels == 0
    return ratio(weights @ (normal & (outputs[:, 0] > 1)), weights @ normal)


def draw(labels: np.ndarray, outputs: np.ndarray, folder: Path) -> None:
    """Write `scores.png`: how the scores of normal samples and of anomalies are spread."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot(
        title="Scores (test)", xlabel="score; above 1 raises the alarm", ylabel="share of samples"
    )
    edges = np.linspace(0, max(2.0, float(np.quantile(outputs[:, 0], 0.995))), 60).tolist()
    for label, name in enumerate(("normal", "anomaly")):
        scores = outputs[labels == label, 0]
        axes.hist(
            scores.clip(max=edges[-1]),
            edges,
            weights=np.full(len(scores), 1 / max(len(scores), 1)),
            alpha=0.6,
            label=name,
        )
    axes.axvline(1, color="grey", linestyle="--", linewidth=1)
    axes.legend()
    figure.savefig(folder / "scores.png", dpi=110)
