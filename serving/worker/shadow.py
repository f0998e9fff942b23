"""Sends copies of requests to a challenger that answers nobody, from a thread, so that no client waits for it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from serving.worker.hop import Breaker, Hop
from serving.worker.messages import Reply, Request
from serving.worker.route import Route
from serving.worker.trial_log import TrialLog

WAITING = 64  # groups that may wait; a challenger that is slower misses copies, and the count says so
Copy = tuple[Route, list[Request], list[int]]


class Shadow:
    """Copies what the champion answered, in the groups that it was answered in.

    Args:
        hop: a road of its own, as a thread must not share one.
        log: writes what the challenger answers.
    """

    def __init__(self, hop: Hop, log: TrialLog) -> None:
        self._hop, self._log = hop, log
        self._breaker = Breaker()
        self._queue: queue.Queue[Copy] = queue.Queue(WAITING)
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def copy(self, route: Route, requests: Sequence[Request], replies: Sequence[Reply]) -> None:
        """Let the challenger see requests too, or drop them where it lags behind; never waits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((route, list(requests), [reply.status for reply in replies]))
        except queue.Full:
            self._dropped += len(requests)

    def _run(self) -> None:
        while True:
            route, requests, verdicts = self._queue.get()
            if time.time() >= route.until or not self._breaker.closed(route.salt):
                self._dropped += len(requests)
                continue
            deadline = time.monotonic() + route.timeout_ms / 1000
            answers = self._hop.collect(route, self._hop.send(route, requests), deadline)
            self._breaker.heard(route.salt, answers)
            self._log.challenger(route, requests, answers, verdicts, self._dropped)
