"""How well a single column tells the target: bins learnt on one half of the samples, judged on the other."""

from __future__ import annotations

import numpy as np

from pipeline.facts.measures import Measure

BINS = 128
LEAST = 50  # samples below which a column may tell the target by chance


def binned(measure: Measure) -> np.ndarray:
    """The bin (N,) of every sample: its category, or one of numbers of equal size; 0 is for missing ones."""
    values = measure.values
    if measure.kind == "category":
        return values.astype(np.int64)
    there = values[~np.isnan(values)]
    if not len(there):
        return np.zeros(len(values), np.int64)
    bins = int(np.clip(np.sqrt(len(there)), 2, BINS))
    edges = np.unique(np.quantile(there, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    found: np.ndarray = np.where(np.isnan(values), 0, np.searchsorted(edges, values, side="left") + 1)
    return found


def halves(count: int) -> np.ndarray:
    """Which half each of `count` samples is in, bool (N,): the same each time."""
    half: np.ndarray = np.random.default_rng(0).permutation(count) % 2 == 0
    return half


def auc(score: np.ndarray, wanted: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve of bins with a score each, from their counts (B,) of wanted and other samples.

    >>> auc(np.array([0.1, 0.9]), np.array([0, 4]), np.array([4, 0]))
    1.0
    """
    _, place = np.unique(score, return_inverse=True)
    wanted, others = np.bincount(place, wanted), np.bincount(place, others)
    below = others.cumsum() - others / 2
    return float((wanted * below).sum() / (wanted.sum() * others.sum()))


def of_classes(bins: np.ndarray, labels: np.ndarray, classes: int) -> float | None:
    """The mean over the classes of each one's AUC against the others, 0 to 1; None where none can be told."""
    half, size, found = halves(len(bins)), int(bins.max()) + 1, []
    counts = [
        np.bincount(bins[part] * classes + labels[part], minlength=size * classes).reshape(size, classes)
        for part in (half, ~half)
    ]
    for learnt, judged in (counts, counts[::-1]):
        prior = learnt.sum(axis=0) / max(learnt.sum(), 1)
        score = (learnt + prior) / (learnt.sum(axis=1, keepdims=True) + 1)
        total = judged.sum(axis=1)
        for label in np.flatnonzero((judged.sum(axis=0) > 0) & (judged.sum(axis=0) < total.sum())):
            found.append(auc(score[:, label], judged[:, label], total - judged[:, label]))
    return round(float(np.mean(found)), 6) if found else None


def of_values(bins: np.ndarray, ranks: np.ndarray) -> float | None:
    """The share of the variance of ranks (N,) that the means of bins explain, 0 to 1; None where there is none."""
    half, size, found = halves(len(bins)), int(bins.max()) + 1, []
    for learnt, judged in ((half, ~half), (~half, half)):
        if not judged.any() or np.ptp(ranks[judged]) == 0:
            continue
        mean = ranks[learnt].mean() if learnt.any() else 0.0
        sums = np.bincount(bins[learnt], ranks[learnt] - mean, size)
        guess = mean + sums / np.bincount(bins[learnt], minlength=size).clip(1)
        left = ((ranks[judged] - guess[bins[judged]]) ** 2).mean() / ranks[judged].var()
        found.append(max(0.0, 1 - left))
    return round(float(np.mean(found)), 6) if found else None


def ranked(values: np.ndarray) -> np.ndarray:
    """The rank of every value (N,), 0 to 1, the mean one where values are equal."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = counts.cumsum() - (counts + 1) / 2
    ranks: np.ndarray = (middle / max(len(values) - 1, 1))[place]
    return ranks


class Teller:
    """Tells of any measure how well it alone tells the target."""

    def __init__(self, labels: np.ndarray, targets: np.ndarray, classes: int) -> None:
        self._labels, self._classes = labels, classes
        self._ranks = [ranked(column) for column in targets.T]

    def __call__(self, measure: Measure) -> float | None:
        """AUC of classes, or the largest R2 of a target's ranks, 0 to 1; None where there are too few samples."""
        if len(self._labels) < LEAST:
            return None
        bins = binned(measure)
        if self._classes:
            return of_classes(bins, self._labels, self._classes)
        scores = [score for ranks in self._ranks if (score := of_values(bins, ranks)) is not None]
        return max(scores, default=None)
