"""How many requests a second one worker answers; the others get a 429 that says when to come again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Bucket:
    """A token bucket: `rate` requests a second, in bursts of at most one second's worth.

    Args:
        rate: requests a second; 0 is no limit.
        clock: seconds that only rise.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._tokens = self._most = max(1.0, rate)
        self._at = clock()

    def take(self, wanted: int) -> int:
        """How many of the requests may be answered now."""
        if not self.rate:
            return wanted
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self.rate)
        self._at = now
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        return granted

    def wait(self) -> int:
        """Whole seconds until there is room again, at least 1."""
        return max(1, math.ceil((1 - self._tokens) / self.rate)) if self.rate else 0
