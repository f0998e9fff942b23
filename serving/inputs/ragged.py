"""Rows of unequal length: the values of all rows one after the other, and where each row begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np


class Ragged:
    """N rows of shape (T_n, *shape) as `values` (sum T, *shape) and `offsets` (N + 1,) int64."""

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values, self.offsets = values, offsets

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], dtype: str, shape: tuple[int, ...] = ()) -> Ragged:
        """Ragged rows from arrays of shape (T_n, *shape)."""
        lengths = np.array([len(row) for row in rows], np.int64)
        values = np.concatenate(rows) if len(rows) else np.zeros((0, *shape), dtype)
        return cls(values.astype(dtype, copy=False), np.concatenate([[0], lengths.cumsum()]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each row, (N,)."""
        return np.diff(self.offsets)

    @overload
    def __getitem__(self, at: int | np.integer[Any]) -> np.ndarray: ...
    @overload
    def __getitem__(self, at: slice | np.ndarray) -> Ragged: ...
    def __getitem__(self, at: Any) -> Any:
        """One row by its number, or rows by a slice, a mask or numbers (copied)."""
        if isinstance(at, int | np.integer):
            at = range(len(self))[at]  # as of a list: from the end where negative, an IndexError beyond
            return np.array(self.values[self.offsets[at] : self.offsets[at + 1]])
        rows = np.arange(len(self))[at]
        starts, lengths = np.asarray(self.offsets)[rows], self.lengths[rows]
        ends = lengths.cumsum()
        if len(rows) and (np.diff(rows) == 1).all():  # one piece, as the data set is read in chunks
            values = np.array(self.values[starts[0] : starts[0] + ends[-1]])
        else:
            steps = np.arange(int(ends[-1]) if len(rows) else 0) + np.repeat(starts - ends + lengths, lengths)
            values = self.values[steps]
        return Ragged(values, np.concatenate([[0], ends]))

    def padded(self, fill: float) -> np.ndarray:
        """One array (N, longest T, *shape), shorter rows filled up at their end."""
        longest = int(self.lengths.max(initial=1))
        out = np.full((len(self), longest, *self.values.shape[1:]), fill, self.values.dtype)
        out[np.arange(longest) < self.lengths[:, None]] = self.values
        return out


Rows = np.ndarray | Ragged


def gather(rows: Sequence[np.ndarray], like: Any) -> Rows:
    """Arrays of one row each as one batch; `like` is the `Column` that they belong to."""
    if like.ragged:
        return Ragged.of(rows, like.dtype, like.shape)
    return np.stack(rows) if len(rows) else np.zeros((0, *like.shape), like.dtype)


def filling(dtype: str | np.dtype[Any]) -> float:
    """What fills up shorter rows: NaN among floats, 0 among whole numbers."""
    return float("nan") if np.dtype(dtype).kind == "f" else 0
