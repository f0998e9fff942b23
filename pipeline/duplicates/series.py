"""Series that are there twice: of nearly the same course, level and length."""

from __future__ import annotations

import numpy as np

from pipeline.core.dataset import CHUNK, Dataset
from pipeline.duplicates.search import (
    Duplicates,
    candidates,
    exact_only,
    exact_rows,
    join,
    normalised,
    too_many,
)
from serving.inputs.ragged import Ragged

WIDTH = 512  # values of a series that are compared at first
STEPS = 256  # steps of a series that are compared at last
SHORTER = 0.02  # share by which the lengths of near copies may differ


def moments(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, (C,) twice, 1 where it does not vary."""
    count = total = squares = 0.0
    for rows in dataset.input_chunks():
        values = rows.values.astype(np.float64)
        count = count + (~np.isnan(values)).sum(axis=0)
        total = total + np.nansum(values, axis=0)
    mean = total / np.maximum(count, 1)
    for rows in dataset.input_chunks():
        squares = squares + np.nansum((rows.values - mean) ** 2, axis=0)
    deviation = np.sqrt(squares / np.maximum(count, 1))
    return np.asarray(mean), np.where(deviation > 0, deviation, 1)


def resampled(rows: Ragged, steps: int) -> np.ndarray:
    """Every series at equally many points, linearly between its steps: N rows to (N, steps, C) float32."""
    place = np.linspace(0, 1, steps) * (rows.lengths[:, None] - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, rows.lengths[:, None] - 1)
    part = (place - below)[:, :, None].astype(np.float32)
    start = np.asarray(rows.offsets)[:-1, None]
    out: np.ndarray = rows.values[start + below] * (1 - part) + rows.values[start + above] * part
    return out


def standard(rows: Ragged, steps: int, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Resampled series (N, steps, C) in deviations from each channel's mean, 0 where missing."""
    scaled = (resampled(rows, steps) - mean) / deviation
    return np.nan_to_num(scaled).astype(np.float32)


def alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """2ab / (aa + bb) of vectors (n, F) twice, (n,): 1 where they are equal in course and in size, 0 for nothing."""
    product = np.einsum("nf,nf->n", one, other)
    squares = np.einsum("nf,nf->n", one, one) + np.einsum("nf,nf->n", other, other)
    found: np.ndarray = np.where(squares > 1e-6, 2 * product / np.maximum(squares, 1e-6), 0)
    return found


def centred(series: np.ndarray) -> np.ndarray:
    """Series (N, T, C) less the mean of each channel."""
    out: np.ndarray = series - series.mean(axis=1, keepdims=True)
    return out


def find_duplicates(dataset: Dataset, least: float, max_compared: int, max_candidates: int) -> Duplicates:
    """Group exact and near copies of a data set of series.

    Series are resampled to few steps and compared with every other; what is alike there is verified with more
    steps, in its course alone and with its level.

    Args:
        dataset: series (T_n, C) and a column of role `id`.
        least: similarity from which two series are near copies, 0 to 1.
        max_compared: distinct series above which near copies are not searched.
        max_candidates: pairs verified at most.
    """
    exact, series = exact_rows(dataset), dataset.inputs
    rows, lengths = np.unique(exact), series.lengths
    if len(rows) > max_compared:
        return exact_only(exact, too_many(len(rows), max_compared))
    mean, deviation = moments(dataset)
    steps = int(np.clip(WIDTH // max(1, len(mean)), 8, 64))
    parts = []
    for start in range(0, len(rows), CHUNK):
        some = standard(series[rows[start : start + CHUNK]], steps, mean, deviation)
        parts.append(normalised(centred(some)))
    near = (rows[pairs] for pairs in candidates(np.concatenate(parts), 1 - 2 * (1 - least)))

    def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        first, second = (standard(series[at], STEPS, mean, deviation) for at in (one, other))
        courses = alike(*(centred(each).reshape(len(each), -1) for each in (first, second)))
        levels = alike(*(each.reshape(len(each), -1) for each in (first, second)))
        same = np.abs(lengths[one] - lengths[other]) <= SHORTER * np.maximum(lengths[one], lengths[other])
        return (np.minimum(courses, levels) * same).astype(np.float32)

    return join(exact, near, similarity, least, max_candidates, 128)
