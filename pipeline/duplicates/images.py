"""Images that are there twice: exact copies by their `id`, near copies by what they show."""

from __future__ import annotations

import numpy as np

from pipeline.core.dataset import Dataset
from pipeline.duplicates.search import (
    Duplicates,
    candidates,
    exact_only,
    exact_rows,
    join,
    normalised,
    too_many,
)
from pipeline.facts.measures import rows_at_once

SIDE = 16  # near copies are looked for among images of at most this many blocks a side
IGNORED = 0.001  # share of the pixels, the most different ones, that a near copy may have changed at will


def pooled(images: np.ndarray, side: int) -> np.ndarray:
    """Means over square blocks: (N, C, H, W) to (N, C, h, w) float32, h and w at most `side`."""
    height, width = images.shape[2:]
    block = -(-max(height, width) // side)
    top, left = np.arange(0, height, block), np.arange(0, width, block)
    sums = np.add.reduceat(np.add.reduceat(images, top, axis=2, dtype=np.float32), left, axis=3)
    area = np.outer(np.diff(top, append=height), np.diff(left, append=width))
    means: np.ndarray = sums / area.astype(np.float32)
    return means


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How alike the images of each pair are, (N, C, H, W) twice to (N,) float32; 1 is the same picture.

    The cosine of the normalised images, with the most different 0.1 % of the pixels left out: a dead pixel
    or a speck weighs more in a thin drawing than what tells two drawings apart.
    """
    first, second = normalised(one), normalised(other)
    squares = (first - second) ** 2
    kept = squares.shape[1] - int(np.ceil(squares.shape[1] * IGNORED))
    distance = np.partition(squares, kept, axis=1)[:, :kept].sum(axis=1)
    alike: np.ndarray = np.where(first.any(axis=1) & second.any(axis=1), 1 - distance / 2, 0)
    return alike.astype(np.float32)


def features(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Down-sampled, normalised grey images of the sorted `rows`, (n, F) float32 with F at most 256."""
    name = dataset.spec.input.name
    parts, start = [], 0
    for chunk in dataset.chunks([name], rows_at_once(dataset)):
        images = chunk[name]
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(images))] - start
        parts.append(normalised(pooled(images[inside], SIDE).mean(axis=1)))
        start += len(images)
    return np.concatenate(parts)


def find_duplicates(dataset: Dataset, least: float, max_compared: int, max_candidates: int) -> Duplicates:
    """Group exact and near copies of a data set of images.

    Every distinct image is compared with every other at 16x16 or less (n * n / 2 products), and what is
    alike there is verified at full size. Beyond `max_compared` distinct images only exact copies are grouped;
    after `max_candidates` verified pairs the search ends early.

    Args:
        dataset: images (N, C, H, W) and a column of role `id`.
        least: similarity from which two images are near copies, 0 to 1.
        max_compared: distinct images above which near copies are not searched.
        max_candidates: pairs compared at full size at most.
    """
    exact = exact_rows(dataset)
    rows = np.unique(exact)
    if len(rows) > max_compared:
        return exact_only(exact, too_many(len(rows), max_compared))
    images = dataset.inputs
    # what differs in detail differs less once pooled, but for a speck that is ignored at full size only
    near = (rows[pairs] for pairs in candidates(features(dataset, rows), 1 - 2 * (1 - least)))
    return join(
        exact, near, lambda one, other: similarity(images[one], images[other]), least, max_candidates,
        rows_at_once(dataset),
    )  # fmt: skip
