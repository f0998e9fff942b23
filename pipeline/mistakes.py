"""The worst mistakes of a classifier as a picture, whatever its samples are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pipeline.core.dataset import Dataset
from pipeline.pictures import SHOW, grid

SHOWN = 24


def mistakes(dataset: Dataset, labels: np.ndarray, probabilities: np.ndarray, path: Path) -> None:
    """Draw up to 24 wrong answers, the most confident first, each with what was said and what was true."""
    spec = dataset.spec
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    worst = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:SHOWN]
    said = [
        f"said {spec.classes[probabilities[at].argmax()]} ({probabilities[at].max():.2f})" for at in worst
    ]
    was = [f"was {spec.classes[labels[at]]}" for at in worst]
    title = f"{len(wrong)} mistakes in {len(labels)} test samples, the most confident first"
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
