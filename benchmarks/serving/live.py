"""One side as it runs: started, checked against the expected answers, loaded, held while others have their turn."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.serving import processes
from benchmarks.serving.load import Generator, Load, request
from benchmarks.serving.sides import Place, Side, Started, find

START, SETTLE = 120.0, 0.5  # seconds
TOLERANCE = 1e-4


class SideError(RuntimeError):
    """A side that cannot be measured: what failed, and where it says why."""


class Live:
    """A side that runs.

    Raises:
        SideError: it gave no right answer in time.
    """

    def __init__(self, name: str, side: Side, place: Place, pngs: list[bytes], expected: np.ndarray) -> None:
        self.name, self.side, self.place = name, side, place
        self.bodies = [side.body(png) for png in pngs]
        began = time.perf_counter()
        self.started: Started = side.start(place)
        try:
            self._until_answered(began + START, expected[0])
            self.start_seconds = time.perf_counter() - began
            self.check(expected)
        except BaseException:
            self.end()
            raise

    def _until_answered(self, deadline: float, expected: np.ndarray) -> None:
        why = "it never answered"
        while time.perf_counter() < deadline:
            if not self.tree():
                raise SideError(f"it ended; see {self.place.scratch / 'log'}")
            try:
                same(self._ask(0), expected)
                return
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                why = f"{type(error).__name__}: {error}"
                time.sleep(0.05)
        raise SideError(f"no right answer within {START:.0f} s ({why}); see {self.place.scratch / 'log'}")

    def _ask(self, at: int) -> dict[str, float]:
        response = httpx.post(
            self.started.url, content=self.bodies[at], headers=self.headers(), timeout=10, trust_env=False
        )
        response.raise_for_status()
        return self.side.read(response.json())

    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        return {"Content-Type": self.side.content_type, **self.started.headers()}

    def check(self, expected: np.ndarray) -> None:
        """Every PNG gets the probabilities (N, K) that the bundle gives; raises ValueError otherwise."""
        for at, row in enumerate(expected):
            same(self._ask(at), row)

    def tree(self) -> list[psutil.Process]:
        """Its processes now."""
        return find(self.started, self.place)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """While this runs the side may run; before and after it is held."""
        processes.release(self.tree())
        time.sleep(SETTLE)
        try:
            yield
        finally:
            processes.hold(self.tree())

    def load(self, connections: int, work: Callable[[Generator], Load]) -> dict[str, Any]:
        """Load it, and say what was seen and what its tree used."""
        raw = [request(self.started.url, body, self.headers()) for body in self.bodies]
        generator = Generator(self.started.url, raw, connections)
        gc.collect()
        gc.disable()
        try:
            before = processes.cpu_seconds(self.tree())
            load = work(generator)
            used = processes.spent(before, processes.cpu_seconds(self.tree()))
        finally:
            gc.enable()
            generator.close()
        answered = max(load.answered, 1)
        return {
            "rate": load.answered / load.seconds,
            "latencies": load.latencies,
            "errors": load.errors,
            "answered": load.answered,
            "cpu": 1000 * used / answered,
            "generator": 1000 * load.cpu_seconds / answered,
        }

    def memory(self) -> dict[str, float]:
        """MiB of its tree now, after all its loads."""
        tree = self.tree()
        return {**processes.memory(tree), "processes": len(tree)}

    def end(self) -> None:
        """End it, whatever its state."""
        processes.release(self.tree())
        self.started.stop()
        processes.end(self.tree)


def same(found: dict[str, float], expected: np.ndarray) -> None:
    """Raise ValueError where probabilities by class are not those of (K,) `expected`."""
    classes = [str(at) for at in range(len(expected))]
    if sorted(found) != classes:
        raise ValueError(f"classes {sorted(found)}; expected {classes}")
    apart = max(abs(found[name] - share) for name, share in zip(classes, expected.tolist(), strict=True))
    if apart > TOLERANCE:
        raise ValueError(f"probabilities differ by {apart:.2g}: {json.dumps(found)}")
