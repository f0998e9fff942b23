"""The search for samples that are there twice: candidates among vectors, verified and merged into groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.dataset import Dataset

BLOCK = 1024  # rows compared at a time: a matrix of 4 MB
Verify = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows (n,) twice to their similarity (n,)


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


def exact_only(exact: np.ndarray, why: str = "") -> Duplicates:
    """Exact copies alone, where near ones cannot be told; `why` is said beside the findings."""
    return Duplicates(exact, exact, np.zeros((0, 2), np.int64), np.zeros(0, np.float32), why)


def too_many(rows: int, most: int) -> str:
    """Why near copies are not searched."""
    return f"{rows} distinct samples are more than validate.max_compared ({most})"


def normalised(images: np.ndarray) -> np.ndarray:
    """Every sample (N, ...) as a vector (N, F) float32 of mean 0 and length 1, all zeros where it is flat.

    Of images brightness and contrast are gone, so the product of two vectors compares only what is pictured.
    """
    flat = images.reshape(len(images), int(np.prod(images.shape[1:]))).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    vectors: np.ndarray = flat / np.where(length > 1e-3, length, np.inf)
    return vectors


def candidates(vectors: np.ndarray, least: float) -> Iterator[np.ndarray]:
    """Yield pairs of positions (n, 2), first below second, whose vectors (N, F) have a product of `least`."""
    for top in range(0, len(vectors), BLOCK):
        for beside in range(top, len(vectors), BLOCK):
            products = vectors[top : top + BLOCK] @ vectors[beside : beside + BLOCK].T
            pairs = np.argwhere(products >= least) + np.array([top, beside])
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            if len(pairs):
                yield pairs


def exact_rows(dataset: Dataset) -> np.ndarray:
    """For every row the first row of equal content, (N,) int64."""
    return first_rows(np.array(dataset.column("id")))


def merge(groups: np.ndarray, pairs: np.ndarray) -> None:
    """Join the groups of each pair of rows (P, 2), in place: `groups` (N,) holds the first row of each.

    >>> groups = np.arange(5)
    >>> merge(groups, np.array([[3, 4], [1, 3]]))
    >>> groups.tolist()
    [0, 1, 2, 1, 1]
    """

    def first(row: int) -> int:
        while groups[row] != row:
            row = groups[row]
        return row

    for one, other in pairs:
        low, high = sorted((first(one), first(other)))
        groups[high] = low
    while not np.array_equal(further := groups[groups], groups):
        groups[:] = further


def join(
    exact: np.ndarray, near: Iterable[np.ndarray], verify: Verify, least: float, budget: int, at_once: int
) -> Duplicates:
    """Verify candidate pairs of rows in batches and merge the groups of those that are near copies.

    Args:
        exact: the first row of equal content, (N,).
        near: pairs of rows (n, 2) that may be near copies.
        verify: tells how alike the rows of each pair are.
        least: similarity from which two rows are near copies.
        budget: pairs verified at most, `validate.max_candidates`.
        at_once: pairs verified at a time.
    """
    groups, joined, alike = exact.copy(), [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    why = ""
    for part in (pairs[start : start + at_once] for pairs in near for start in range(0, len(pairs), at_once)):
        part = part[groups[part[:, 0]] != groups[part[:, 1]]]  # what is joined already needs no look
        if len(part) > budget:
            why = "more pairs look alike than validate.max_candidates allows to verify"
            break
        budget -= len(part)
        found = verify(part[:, 0], part[:, 1])
        joined.append(part[found >= least])
        alike.append(found[found >= least])
        merge(groups, joined[-1])
    return Duplicates(exact, groups, np.concatenate(joined), np.concatenate(alike), why)
