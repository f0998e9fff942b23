"""Draws of samples with replacement, and what intervals are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from serving.inputs.spec import DataSpec

CELLS = 1 << 21  # weights held at a time, so that memory does not grow with the test; metrics take some more


@dataclass(frozen=True)
class Difference:
    """How much one is above another, with the ends of its interval."""

    value: float
    low: float
    high: float

    def plain(self) -> dict[str, float]:
        """As a dict."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True)
class Resamples:
    """Bootstrap weights (B, N) of `count` draws of `size` samples with replacement, some draws at a time.

    Samples that follow one another and are alike are drawn in blocks of `block`, round the end to the start, after
    Politis and Romano, "A circular block-resampling procedure for stationary data" (1992): drawn alone they would
    make intervals too narrow. Every pass over it gives the same draws.
    """

    count: int
    size: int
    seed: int
    block: int = 1

    def __iter__(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng(self.seed)
        block = min(self.block, self.size)
        steps = np.arange(block)
        at_once = max(1, CELLS // self.size)
        for start in range(0, self.count, at_once):
            weights = np.zeros((min(at_once, self.count - start), self.size), np.float32)
            for row in weights:
                starts = generator.integers(0, self.size, -(-self.size // block))
                drawn = (starts[:, None] + steps).ravel()[: self.size] % self.size
                row[:] = np.bincount(drawn, minlength=self.size)
            yield weights


def resamples(count: int, size: int, seed: int, block: int = 1) -> np.ndarray:
    """All weights (B, N) of `Resamples` at once; for samples that are few."""
    return np.concatenate(list(Resamples(count, size, seed, block)))


def block_of(spec: DataSpec) -> int:
    """Samples that are drawn together: windows of a forecast that overlap, else one."""
    series = spec.series
    if series is None or not series.horizon:
        return 1
    return -(-(series.max_steps + series.horizon) // series.stride)
