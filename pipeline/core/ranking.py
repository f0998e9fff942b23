"""How well scores put positives before negatives, for many weightings (B, N) of N samples at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotients, NaN where undefined."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def mean_of_known(values: Sequence[np.ndarray] | np.ndarray, axis: int) -> np.ndarray:
    """The mean of all that is not NaN, as of `np.nanmean`, but without its warning: NaN where all is NaN."""
    return ratio(np.nansum(values, axis), (~np.isnan(values)).sum(axis))


def counts_above(weights: np.ndarray, positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weighted true and false positives (B, T) at each of T falling thresholds, ties taken together."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    ordered = weights[:, order]
    hits = np.cumsum(ordered * positive[order], axis=1)[:, last]
    return hits, np.cumsum(ordered, axis=1)[:, last] - hits


def roc_auc_of(weights: np.ndarray, positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, shape (B,)."""
    hits, alarms = counts_above(weights, positive, scores)
    tpr, fpr = ratio(hits, hits[:, -1:]), ratio(alarms, alarms[:, -1:])
    start = np.zeros((len(weights), 1))
    return np.trapezoid(np.hstack([start, tpr]), np.hstack([start, fpr]), axis=1)


def average_precision_of(weights: np.ndarray, positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Step-wise area under the precision-recall curve, shape (B,)."""
    hits, alarms = counts_above(weights, positive, scores)
    steps = np.diff(ratio(hits, hits[:, -1:]), axis=1, prepend=0)
    return (steps * np.nan_to_num(ratio(hits, hits + alarms))).sum(1)
