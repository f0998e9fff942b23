"""Writes to a tracking run on a thread of its own, so that fitting waits neither for MLflow nor for its store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from pipeline import mlflow_store, tracking
from pipeline.tracking import Run


class Recorder:
    """A run that is opened, and written to in order, while the work goes on."""

    def __init__(self, pool: ThreadPoolExecutor, opening: Callable[[], Run]) -> None:
        self._pool = pool
        self._opened = pool.submit(opening)
        self._written: list[Future[Any]] = []

    @property
    def run(self) -> Run:
        """The run, waited for."""
        return self._opened.result()

    def later(self, write: Callable[[Run], object]) -> None:
        """Queue a write; an error of an earlier one is raised here, so that work is not done in vain."""
        self._raise_errors(only_done=True)
        self._written.append(self._pool.submit(lambda: write(self.run)))

    def settle(self) -> None:
        """Wait until everything is written."""
        self._raise_errors(only_done=False)

    def _raise_errors(self, only_done: bool) -> None:
        pending: list[Future[Any]] = [self._opened, *self._written]
        for future in pending:
            if not only_done or future.done():
                future.result()


@contextmanager
def recorded(opening: Callable[[], Run]) -> Iterator[Recorder]:
    """Record into the run that `opening` gives, with system metrics; an error in the block marks it failed.

    Raises:
        UserError: a tracking server does not answer; said before the block begins.
    """
    mlflow_store.check_reachable()
    with ExitStack() as stack, ThreadPoolExecutor(1, "tracking") as pool:
        recorder = Recorder(pool, opening)
        recorder.later(lambda run: stack.enter_context(tracking.recording(run)))
        yield recorder
        recorder.settle()
