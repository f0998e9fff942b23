"""Pictures and tables of curves that `evaluate` writes, from arrays."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline import metrics
from pipeline.pictures import grid

mpl.use("agg")
POINTS = 200  # a curve is thinned to about so many points


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a small table."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


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
        hits, alarms = (c[0] for c in metrics.counts_above(ones, labels == number, probabilities[:, number]))
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
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.add_subplot(title="Reliability (test)", xlabel="confidence", ylabel="accuracy")
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfectly calibrated")
    x, y, n = (np.array(column) for column in zip(*rows, strict=True))
    axes.plot(x, y, marker="o", label="model")
    for at in range(len(n)):
        axes.annotate(f"n={n[at]}", (x[at], y[at]), fontsize=7, xytext=(4, -10), textcoords="offset points")
    axes.legend(fontsize=8)
    figure.savefig(folder / "reliability.png", dpi=110)


def mistakes(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], path: Path
) -> None:
    """Draw up to 24 wrong answers, the most confident first, each with what was said and what was true."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    worst = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:24]
    figure = Figure(figsize=(10, 0.8 + 1.7 * max(1, -(-len(worst) // 6))))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.92))
    axes.set_axis_off()
    axes.set_title(f"{len(wrong)} mistakes in {len(labels)} test samples, the most confident first")
    if len(worst):
        height, width = images.shape[2:]
        scale, gap = max(1, 96 // max(height, width)), 44  # pixels; the text stands in the gap
        axes.imshow(np.asarray(grid(images[worst], 6, scale, gap, (255, 255, 255))))
        for place, at in enumerate(worst):
            x, y = gap + place % 6 * (width * scale + gap), gap + place // 6 * (height * scale + gap)
            said, p = classes[probabilities[at].argmax()], probabilities[at].max()
            axes.text(x, y - 3, f"said {said} ({p:.2f})\nwas {classes[labels[at]]}", fontsize=8, va="bottom")
    figure.savefig(path, dpi=110)


def learning_curves(rows: list[dict[str, float]], path: Path) -> None:
    """Draw losses and accuracy over epochs."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    loss = figure.add_subplot(1, 2, 1, title="Loss", xlabel="epoch")
    epochs = [row["epoch"] for row in rows]
    for name in ("train_loss", "val_loss"):
        loss.plot(epochs, [row[name] for row in rows], label=name, marker=".")
    loss.legend()
    right = figure.add_subplot(1, 2, 2, title="Validation accuracy", xlabel="epoch")
    right.plot(epochs, [row["val_accuracy"] for row in rows], marker=".")
    figure.savefig(path, dpi=100)
