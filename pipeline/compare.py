"""Promotion decided by statistics: a paired bootstrap on the same test samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from pipeline import metrics
from pipeline.core.resampling import Difference
from serving.inputs.spec import Task

Verdict = Literal["promoted", "rejected", "inconclusive", "unchanged"]


def difference(
    known: Mapping[str, metrics.Metric],
    metric: str,
    resamples: Iterable[np.ndarray],
    labels: np.ndarray,
    mine: np.ndarray,
    other: np.ndarray,
    confidence: float,
) -> Difference:
    """Candidate less other, positive for better, over the same resamples, for any metric of those `known`.

    Resamples are weights, some (B, N) at a time; labels are (N,) or targets (N, M), outputs (N, K) or (N, M) each.
    """
    sign = -1.0 if metric in metrics.LOWER_IS_BETTER else 1.0
    function = known[metric]
    ones = np.ones((1, len(labels)))
    value = float(sign * (function(ones, labels, mine) - function(ones, labels, other))[0])
    about = value if metric in metrics.BIASED else None
    spread = [function(weights, labels, mine) - function(weights, labels, other) for weights in resamples]
    return Difference(value, *metrics.interval(sign * np.concatenate(spread), confidence, about))


def baseline(task: Task, labels: np.ndarray, classes: int) -> np.ndarray:
    """Outputs (N, K) of the trivial model: the class frequencies, the mean of the targets, or one score for all."""
    if task == "anomaly":
        return np.ones((len(labels), 1), np.float32)
    if task == "regression":
        return np.tile(labels.mean(axis=0, dtype=np.float64), (len(labels), 1))
    shares = np.bincount(labels, minlength=classes) / len(labels)
    return np.tile(shares.astype(np.float32), (len(labels), 1))


def decide(found: Difference, margin: float, other: str, metric: str) -> tuple[Verdict, str]:
    """Promote what is surely better, or surely not worse by more than `margin` (0 asks for better)."""
    told = f"{metric} {found.value:+.4f} against {other} (interval {found.low:+.4f} to {found.high:+.4f})"
    if found.low > 0:
        return "promoted", f"better: {told}"
    if margin and found.low > -margin:
        return "promoted", f"not worse by more than the margin of {margin:g}: {told}"
    if found.high < 0:
        return "rejected", f"worse: {told}"
    return "inconclusive", f"the test cannot tell, so what serves now stays: {told}, margin {margin:g}"


def as_tags(receipt: dict[str, Any]) -> dict[str, str]:
    """What of a receipt is put on a registry version."""
    keys = ("verdict", "reason", "model_version", "run_id", "archive_sha256")
    return {key: str(receipt[key]) for key in keys}
