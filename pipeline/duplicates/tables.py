"""Rows of a table that are there twice: equal but for tiny differences of numbers, such as rounding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.core.dataset import CHUNK, Dataset
from pipeline.duplicates.search import Duplicates, exact_only, exact_rows, join

DIRECTIONS = 3  # random directions along which near rows are looked for
NEIGHBOURS = 8  # rows that follow in each direction which a row is compared with
SAMPLE = 10_000  # rows from which the scale of a column is taken
DENSE = 0.3  # share of rows with a near one from which nearness tells nothing


def scales(rows: np.ndarray) -> np.ndarray:
    """The unit of each column of numbers, (N, F) to (F,): its deviation, or that of its middle half if smaller."""
    units = []
    for column in rows.T.astype(np.float64):
        there = column[~np.isnan(column)]
        if not len(there) or there.min() == there.max():
            units.append(1.0)
            continue
        quarter = float(np.subtract(*np.quantile(there, [0.75, 0.25]))) / 1.349
        units.append(min(there.std(), quarter or np.inf))
    return np.array(units)


def keys(dataset: Dataset, numbers: int, units: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, ...]:
    """A hash of what must be equal, (N,) uint64, and where each row lies in each direction, (N, D) float64.

    Equal must be the categories and which numbers are missing.
    """
    draw = np.random.default_rng(0)
    mixers = draw.integers(1, 2**63, dataset.spec.input_shape[0], dtype=np.uint64) | np.uint64(1)
    hashes, places = [], []
    for rows in dataset.input_chunks():
        missing = np.isnan(rows[:, :numbers])
        same = np.concatenate([missing, rows[:, numbers:]], axis=1).astype(np.uint64)
        hashes.append((same * mixers).sum(axis=1, dtype=np.uint64))
        places.append((np.where(missing, 0, rows[:, :numbers]) / units) @ directions)
    return np.concatenate(hashes), np.concatenate(places)


def neighbours(
    rows: np.ndarray, hashes: np.ndarray, places: np.ndarray, reach: np.ndarray
) -> Iterator[np.ndarray]:
    """Pairs of `rows` (n, 2), lower first, of one hash and within `reach` (D,) of each other in a direction."""
    for at, furthest in enumerate(reach):
        place = places[rows, at]
        order = np.lexsort((place, hashes[rows]))
        mine, hashed, place = rows[order], hashes[rows][order], place[order]
        for step in range(1, min(NEIGHBOURS, len(rows) - 1) + 1):
            near = (hashed[step:] == hashed[:-step]) & (place[step:] - place[:-step] <= furthest)
            first, second = mine[:-step][near], mine[step:][near]
            yield np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)


def find_duplicates(dataset: Dataset, tolerance: float, max_candidates: int) -> Duplicates:
    """Group exact and near copies among the rows of a table.

    Rows are sorted along random directions, in which near rows must lie near, and each is compared with the
    few that follow: time grows as N log N. A similarity is 1 less the largest difference in any column,
    in deviations of that column.

    Args:
        dataset: rows (N, F + G) and a column of role `id`.
        tolerance: difference up to which numbers count as equal, in deviations of their column.
        max_candidates: pairs compared at most.
    """
    table, rows = dataset.spec.table, dataset.inputs
    assert table is not None
    exact, numbers = exact_rows(dataset), len(table.numbers)
    distinct = np.unique(exact)
    if not numbers or len(distinct) < 2:
        return exact_only(exact)
    units = scales(rows[:: max(1, len(rows) // SAMPLE), :numbers])
    directions = np.random.default_rng(1).standard_normal((numbers, DIRECTIONS))
    hashes, places = keys(dataset, numbers, units, directions)
    reach = tolerance * np.abs(directions).sum(axis=0)

    def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        apart = np.abs(rows[one].astype(np.float64) - rows[other])
        apart[:, :numbers] /= units
        return (1 - np.nan_to_num(apart).max(axis=1)).clip(0).astype(np.float32)

    least = 1 - tolerance - 1e-7  # float32 tells 1 from what is below it by 6e-8
    found = join(exact, neighbours(distinct, hashes, places, reach), similarity, least, max_candidates, CHUNK)
    if (found.groups[distinct] != distinct).mean() > DENSE:
        return exact_only(
            exact, f"above {DENSE:.0%} of the rows lie within validate.near_cells ({tolerance:g}) of another"
        )
    return found
