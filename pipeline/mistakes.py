"""The worst mistakes of a model as a picture, whatever its samples are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pipeline.core.dataset import Dataset
from pipeline.pictures import SHOW, grid
from serving.inputs.spec import DataSpec

SHOWN = 24


Worst = tuple[np.ndarray, list[str], list[str], str]  # rows, what was said, what was true, the title


def of_classes(spec: DataSpec, labels: np.ndarray, probabilities: np.ndarray) -> Worst:
    """The wrong answers of a classifier, the most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    worst = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:SHOWN]
    said = [
        f"said {spec.classes[probabilities[at].argmax()]} ({probabilities[at].max():.2f})" for at in worst
    ]
    was = [f"was {spec.classes[labels[at]]}" for at in worst]
    return worst, said, was, f"{len(wrong)} mistakes in {len(labels)} test samples, the most confident first"


def of_values(spec: DataSpec, targets: np.ndarray, outputs: np.ndarray) -> Worst:
    """The largest errors of a regression, in deviations of the target that is furthest off."""
    errors = np.abs(outputs - targets) / np.maximum(targets.std(0), 1e-12)
    worst = np.argsort(-errors.max(1), kind="stable")[:SHOWN]
    furthest = errors[worst].argmax(1)
    said = [f"said {outputs[at, one]:.4g}" for at, one in zip(worst, furthest, strict=True)]
    was = [f"{spec.targets[one]} was {targets[at, one]:.4g}" for at, one in zip(worst, furthest, strict=True)]
    return worst, said, was, f"The largest errors in {len(targets)} test samples"


def of_alarms(spec: DataSpec, labels: np.ndarray, outputs: np.ndarray) -> Worst:
    """False alarms and anomalies that raised none, the furthest from the threshold first."""
    score = outputs[:, 0]
    wrong = np.flatnonzero((score > 1) != (labels == 1))
    worst = wrong[np.argsort(-np.abs(score[wrong] - 1), kind="stable")][:SHOWN]
    said = [f"score {score[at]:.2f}" for at in worst]
    was = [f"was {spec.classes[labels[at]]}" for at in worst]
    return worst, said, was, f"{len(wrong)} wrong or missing alarms in {len(labels)} test samples"


WORST: dict[str, Callable[[DataSpec, np.ndarray, np.ndarray], Worst]] = {
    "classification": of_classes, "regression": of_values, "anomaly": of_alarms,
}  # fmt: skip


def mistakes(dataset: Dataset, targets: np.ndarray, outputs: np.ndarray, path: Path) -> None:
    """Draw up to 24 of the worst answers, each with what was said and what was true."""
    spec = dataset.spec
    worst, said, was, title = WORST[spec.task](spec, targets, outputs)
    if spec.modality == "image":
        _images(dataset.inputs[worst], [f"{a}\n{b}" for a, b in zip(said, was, strict=True)], title, path)
    else:
        SHOW[spec.modality](
            dataset, worst, [f"{a}, {b}" for a, b in zip(said, was, strict=True)], title, path
        )


def _images(images: np.ndarray, captions: Sequence[str], title: str, path: Path) -> None:
    figure = Figure(figsize=(10, 0.8 + 1.7 * max(1, -(-len(images) // 6))))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.92))
    axes.set_axis_off()
    axes.set_title(title)
    if len(images):
        height, width = images.shape[2:]
        scale, gap = max(1, 96 // max(height, width)), 44  # pixels; the text stands in the gap
        axes.imshow(np.asarray(grid(images, 6, scale, gap, (255, 255, 255))))
        for place, caption in enumerate(captions):
            x, y = gap + place % 6 * (width * scale + gap), gap + place // 6 * (height * scale + gap)
            axes.text(x, y - 3, caption, fontsize=8, va="bottom")
    figure.savefig(path, dpi=110)
