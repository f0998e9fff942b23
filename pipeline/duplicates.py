"""Images that are there twice: exact copies by their `id`, near copies by what they show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.dataset import CHUNK, Dataset

SIDE = 16  # near copies are looked for among images of at most this many blocks a side
BLOCK = 1024  # rows compared at a time: a matrix of 4 MB
VALUES = 1 << 22  # pixel values held at a time: 16 MB as float32
IGNORED = 0.001  # share of the pixels, the most different ones, that a near copy may have changed at will


@dataclass(frozen=True)
class Duplicates:
    """What was found among N rows.

    `exact` (N,) int64 is the first row of equal content, `groups` (N,) int64 the first row of the group that
    exact and near copies form. `pairs` (P, 2) int64 are the near copies found (not every pair of a larger
    group), with their `similarity` (P,) float32. `unsearched` says why the search is not complete.
    """

    exact: np.ndarray
    groups: np.ndarray
    pairs: np.ndarray
    similarity: np.ndarray
    unsearched: str = ""


def first_rows(ids: np.ndarray) -> np.ndarray:
    """For every row (N,) the first row of equal id, int64.

    >>> first_rows(np.array([b"a", b"b", b"a"])).tolist()
    [0, 1, 0]
    """
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    rows: np.ndarray = first[inverse].astype(np.int64)
    return rows


def exact_only(ids: np.ndarray, why: str) -> Duplicates:
    """Exact copies alone, where near ones cannot be told; `why` is said beside the findings."""
    exact = first_rows(ids)
    return Duplicates(exact, exact, np.zeros((0, 2), np.int64), np.zeros(0, np.float32), why)


def pooled(images: np.ndarray, side: int) -> np.ndarray:
    """Means over square blocks: (N, C, H, W) to (N, C, h, w) float32, h and w at most `side`."""
    height, width = images.shape[2:]
    block = -(-max(height, width) // side)
    top, left = np.arange(0, height, block), np.arange(0, width, block)
    sums = np.add.reduceat(np.add.reduceat(images, top, axis=2, dtype=np.float32), left, axis=3)
    area = np.outer(np.diff(top, append=height), np.diff(left, append=width))
    means: np.ndarray = sums / area.astype(np.float32)
    return means


def normalised(images: np.ndarray) -> np.ndarray:
    """Every image (N, ...) as a vector (N, F) float32 of mean 0 and length 1, all zeros where it is flat.

    Brightness and contrast are gone, so the product of two vectors compares only what is pictured.
    """
    flat = images.reshape(len(images), int(np.prod(images.shape[1:]))).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    vectors: np.ndarray = flat / np.where(length > 1e-3, length, np.inf)
    return vectors


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


def rows_at_once(dataset: Dataset) -> int:
    """How many rows to read at a time, so that memory depends on neither their number nor their size."""
    return min(CHUNK, max(1, VALUES // int(np.prod(dataset.spec.input_shape))))


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


def candidates(vectors: np.ndarray, least: float) -> Iterator[np.ndarray]:
    """Yield pairs of positions (n, 2), first below second, whose vectors (N, F) have a product of `least`."""
    for top in range(0, len(vectors), BLOCK):
        for beside in range(top, len(vectors), BLOCK):
            products = vectors[top : top + BLOCK] @ vectors[beside : beside + BLOCK].T
            pairs = np.argwhere(products >= least) + np.array([top, beside])
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            if len(pairs):
                yield pairs


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
    ids = next(column.name for column in dataset.spec.columns if column.role == "id")
    exact = first_rows(dataset.column(ids))
    rows = np.unique(exact)
    if len(rows) > max_compared:
        why = f"{len(rows)} distinct images are more than validate.max_compared ({max_compared})"
        return Duplicates(exact, exact, np.zeros((0, 2), np.int64), np.zeros(0, np.float32), why)
    # what differs in detail differs less once pooled, but for a speck that is ignored at full size only
    near = (rows[pairs] for pairs in candidates(features(dataset, rows), 1 - 2 * (1 - least)))
    return _join(dataset, exact, near, least, max_candidates)


def _join(
    dataset: Dataset, exact: np.ndarray, near: Iterator[np.ndarray], least: float, budget: int
) -> Duplicates:
    """Verify candidate pairs of rows in batches and merge the groups of those that are near copies."""
    groups, joined, alike = exact.copy(), [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    size = rows_at_once(dataset)
    why = ""
    for part in (pairs[start : start + size] for pairs in near for start in range(0, len(pairs), size)):
        part = part[groups[part[:, 0]] != groups[part[:, 1]]]  # what is joined already needs no look
        if len(part) > budget:
            why = "more pairs look alike than validate.max_candidates allows to verify"
            break
        budget -= len(part)
        images = dataset.column(dataset.spec.input.name)
        found = similarity(images[part[:, 0]], images[part[:, 1]])
        joined.append(part[found >= least])
        alike.append(found[found >= least])
        for one, other in groups[joined[-1]]:
            low, high = sorted((groups[one], groups[other]))
            groups[groups == high] = low
    return Duplicates(exact, groups, np.concatenate(joined), np.concatenate(alike), why)
