"""Pictures and tables of curves that `evaluate` writes, from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline import metrics
from pipeline.core.dataset import Dataset
from pipeline.core.ranking import counts_above
from pipeline.core.tables import write_csv
from serving.inputs.spec import Task

mpl.use("agg")
SCORE = {"classification": "accuracy", "regression": "R2", "anomaly": "ROC-AUC", "generation": "coverage"}
WINDOWS = 12  # forecasts shown
POINTS = 200  # a curve is thinned to about so many points


PLOTTED = {  # the tables that `dvc.yaml` plots
    "confusion.csv": ["actual", "predicted"],
    "roc.csv": ["class", "fpr", "tpr"],
    "pr.csv": ["class", "recall", "precision"],
    "reliability.csv": ["confidence", "accuracy", "samples"],
    "residuals.csv": ["target", "true", "said", "residual"],
}


def complete(folder: Path) -> None:
    """Write those tables that a task does not have without rows: DVC draws nothing of them, and misses nothing."""
    for name, header in PLOTTED.items():
        if not (folder / name).exists():
            write_csv(folder / name, header, [])


def confusion_matrix(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], folder: Path
) -> None:
    """Write `confusion.csv`, a row a sample as DVC's template wants it, and `confusion.png`."""
    predicted = probabilities.argmax(1)
    rows = [(classes[a], classes[p]) for a, p in zip(labels, predicted, strict=True)]
    write_csv(folder / "confusion.csv", ["actual", "predicted"], rows)
    table = metrics.confusion(np.ones((1, len(labels))), labels, probabilities)[0].astype(int)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    size = min(12.0, 3 + 0.45 * len(classes))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="actual", title="Confusion matrix (test)")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 3 else 0)
    axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 25:
        for (row, column), count in np.ndenumerate(table):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(folder / "confusion.png", dpi=110)


def curves(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], folder: Path) -> None:
    """Write ROC and precision-recall curves, each class against the rest: CSV and one picture each."""
    ones = np.ones((1, len(labels)))
    roc, pr = [], []
    for number, name in enumerate(classes):
        hits, alarms = (c[0] for c in counts_above(ones, labels == number, probabilities[:, number]))
        if not hits[-1] or not alarms[-1]:
            continue
        at = np.unique(np.linspace(0, len(hits) - 1, POINTS).astype(int))
        roc += [(name, 0.0, 0.0)] + [(name, alarms[i] / alarms[-1], hits[i] / hits[-1]) for i in at]
        pr += [(name, hits[i] / hits[-1], hits[i] / (hits[i] + alarms[i])) for i in at]
    write_csv(folder / "roc.csv", ["class", "fpr", "tpr"], roc)
    write_csv(folder / "pr.csv", ["class", "recall", "precision"], pr)
    _lines(
        roc, classes, folder / "roc.png", "ROC, each class against the rest", "false positive rate", "recall"
    )
    _lines(pr, classes, folder / "pr.png", "Precision and recall, each class", "recall", "precision")


def _lines(
    points: list[tuple[str, float, float]], classes: Sequence[str], path: Path, title: str, x: str, y: str
) -> None:
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for name in classes:
        mine = np.array([point[1:] for point in points if point[0] == name])
        if len(mine):
            axes.plot(mine[:, 0], mine[:, 1], label=name, linewidth=1.2)
    if len(classes) <= 12:
        axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=110)


def reliability(labels: np.ndarray, probabilities: np.ndarray, folder: Path) -> None:
    """Write `reliability.csv` (confidence, accuracy and samples of each bin) and `reliability.png`."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    where = metrics.bins(confidence)
    rows = [
        (float(confidence[where == b].mean()), float(right[where == b].mean()), int((where == b).sum()))
        for b in range(metrics.BINS)
        if (where == b).any()
    ]
    write_csv(folder / "reliability.csv", ["confidence", "accuracy", "samples"], rows)
    _reliability(np.array(rows)).savefig(folder / "reliability.png", dpi=110)


def short(count: float) -> str:
    """A number of samples in four signs at most, for a label; below ten million.

    >>> short(9854), short(12345)
    ('9854', '12k')
    """
    return f"{count:.0f}" if count < 10_000 else f"{count / 1000:.0f}k"


def _reliability(rows: np.ndarray) -> Figure:
    """Accuracy over confidence, and below it how many samples each point (confidence, accuracy, samples) stands for."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.set(title="Reliability (test)", ylabel="accuracy")
    below.set(xlabel="confidence", ylabel="samples", xlim=(-0.02, 1.02))
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfectly calibrated")
    confidence, accuracy, samples = rows.T
    axes.plot(confidence, accuracy, marker="o", label="model")
    axes.legend(fontsize=8)
    middles = (metrics.bins(confidence) + 0.5) / metrics.BINS
    bars = below.bar(middles, samples, width=0.9 / metrics.BINS)
    below.bar_label(bars, fmt=short, fontsize=6, padding=1)
    below.margins(y=0.25)
    return figure


def learning_curves(rows: list[dict[str, float]], task: Task, path: Path) -> None:
    """Draw losses, and accuracy or R2, over epochs."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    loss = figure.add_subplot(1, 2, 1, title="Loss", xlabel="epoch")
    epochs = [row["epoch"] for row in rows]
    for name in ("train_loss", "val_loss"):
        loss.plot(epochs, [row[name] for row in rows], label=name, marker=".")
    loss.legend()
    right = figure.add_subplot(1, 2, 2, title=f"Validation {SCORE[task]}", xlabel="epoch")
    right.plot(epochs, [row["val_score"] for row in rows], marker=".")
    figure.savefig(path, dpi=100)


def forecasts(dataset: Dataset, targets: np.ndarray, outputs: np.ndarray, folder: Path) -> None:
    """Write `forecasts.png`: windows, what followed, and what was forecast, of the first channel."""
    series = dataset.spec.series
    assert series is not None
    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle(f"Forecasts of {series.forecasts[0]} (test)")
    channel, horizon = series.channels.index(series.forecasts[0]), series.horizon
    for place, at in enumerate(np.linspace(0, len(dataset) - 1, min(WINDOWS, len(dataset))).astype(int)):
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
