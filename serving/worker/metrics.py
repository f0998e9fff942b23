"""Counts what a worker answers; `serving.metrics` adds up the workers' counts for Prometheus.

Each process counts in memory and writes its sums to `metrics/<pid>.json` of the state folder once a second, from a
thread. Prometheus's own client keeps the counts of several processes in memory-mapped files: a process that writes
to one on a full disk is killed by the system, and each count costs three times as much.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = "metrics"


class Metric(NamedTuple):
    """A metric as Prometheus knows it: a counter, or a histogram where it has bounds."""

    about: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()


MODEL = ("model", "version")
METRICS = {
    "fairlead_requests": Metric("Requests that workers answered.", (*MODEL, "kind", "status")),
    "fairlead_request_seconds": Metric(
        "Seconds that a worker took for a request's batch.",
        (*MODEL, "kind"),
        (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    ),
    "fairlead_batch_size": Metric(
        "Requests that were answered together.", (*MODEL, "kind"), (1, 2, 4, 8, 16, 32, 64, 128, 256)
    ),
    "fairlead_predictions": Metric("Predictions by their label.", (*MODEL, "label")),
    "fairlead_prediction_value": Metric(
        "Confidence of a label, score of an anomaly, or a value in standard deviations from training's mean.",
        (*MODEL, "output"),
        (
            -4,
            -3,
            -2,
            -1,
            -0.5,
            0,
            0.1,
            0.2,
            0.3,
            0.4,
            0.5,
            0.6,
            0.7,
            0.8,
            0.9,
            0.95,
            0.99,
            1,
            1.5,
            2,
            3,
            4,
            10,
        ),
    ),
    "fairlead_log_lost": Metric("Batches that the request log could not write.", ()),
}
Key = tuple[str, ...]  # a metric's name and the values of its labels


class Metrics:
    """The counts of one process; threads may share it."""

    def __init__(self) -> None:
        self.counters: dict[Key, float] = {}
        self.histograms: dict[
            Key, list[float]
        ] = {}  # counts between bounds, from below; then the sum of values
        self.models: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._written = 0

    def count(self, name: str, labels: Sequence[str], by: float = 1) -> None:
        """Add to a counter."""
        key = (name, *labels)
        with self._lock:
            self.counters[key] = self.counters.get(key, 0) + by

    def tally(self, name: str, labels: Sequence[str], values: Iterable[str]) -> None:
        """Count each value of a counter's last label."""
        counters, first = self.counters, (name, *labels)
        with self._lock:
            for value in values:
                key = (*first, value)
                counters[key] = counters.get(key, 0) + 1

    def observe(self, name: str, labels: Sequence[str], values: Iterable[float], times: int = 1) -> None:
        """Put each value into a histogram, `times` times."""
        key, bounds = (name, *labels), METRICS[name].bounds
        with self._lock:
            cells = self.histograms.get(key)
            if cells is None:
                cells = self.histograms[key] = [0.0] * (len(bounds) + 2)
            for value in values:
                cells[bisect_left(bounds, value)] += times
                cells[-1] += value * times

    def content(self) -> dict[str, Any]:
        """What `write` writes: JSON has no tuples for keys, so pairs."""
        with self._lock:
            return {
                "models": sorted(self.models),
                "counters": list(self.counters.items()),
                "histograms": [(key, list(cells)) for key, cells in self.histograms.items()],
            }

    def write(self, state: Path) -> None:
        """Write the sums where they changed since the last time; never raises."""
        text = json.dumps(self.content())
        if hash(text) == self._written:
            return
        path = state / FOLDER / f"{os.getpid()}.json"
        fresh = path.with_suffix(".new")
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_text(text)
            fresh.replace(path)
            self._written = hash(text)
