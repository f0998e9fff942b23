"""Tasks on processes of this machine, each of which loads its libraries once and then does one task after the other.

A process that is killed is replaced, and its task is told as lost. None outlives the one that started it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from pipeline.core.params import UserError
from pipeline.engine.places import surroundings
from pipeline.engine.tasks import Answer, Done, Executor, Work
from pipeline.engine.worker import ASKED, BROKEN, ENDED, READY, serve

T = TypeVar("T")
R = TypeVar("R")
LOOK = 1.0  # seconds between looks for a process that died without its pipe being closed, as its own children hold it
GRACE = 5.0  # seconds that a process has to end by itself
STILLBORN = 20  # processes in a row that die before they are ready, after which no more are started


class RemoteError(Exception):
    """Where in a worker an exception was raised."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass
class _Worker(Generic[T]):
    """A process, our end of its pipe, and the task that it was given."""

    process: BaseProcess
    pipe: Connection
    place: int
    ready: bool = False
    tasks: list[T] = field(default_factory=list)  # one at most


class Local(Executor[T, R]):
    """Tasks on `size` processes of this machine; those are started when there are tasks for them."""

    def __init__(
        self, work: Work[T, R], answer: Answer[T], size: int, gpus: int = 0, gpus_each: float = 0.0
    ) -> None:
        super().__init__(work, answer)
        self.size, self._gpus, self._gpus_each = size, gpus, gpus_each
        self._queue: deque[T] = deque()
        self._workers: list[_Worker[T]] = []
        self._stillborn = 0

    @property
    def running(self) -> int:
        """Tasks submitted and not ended."""
        return len(self._queue) + sum(len(worker.tasks) for worker in self._workers)

    @property
    def processes(self) -> list[int]:
        """The ids of the worker processes."""
        return [worker.process.pid for worker in self._workers if worker.process.pid]

    def submit(self, task: T) -> None:
        """Hand a task to a process that is free, or to one that is started for it."""
        self._queue.append(task)
        self._hand_out()

    def wait(self) -> Done[T, R]:
        """The next task that ends. Questions are answered meanwhile, in this thread."""
        while True:
            self._hand_out()
            found = wait([each.pipe for each in self._workers], LOOK)
            for worker in list(self._workers):
                if worker.pipe in found or not worker.process.is_alive():
                    done = self._hear(worker)
                    if done is not None:
                        return done

    def close(self) -> None:
        """End what runs; no process is left."""
        for worker in self._workers:
            worker.process.terminate()
        until = time.monotonic() + GRACE
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            worker.process.kill()
            worker.process.join()
            worker.process.close()
            worker.pipe.close()
        self._workers.clear()
        self._queue.clear()

    def _hand_out(self) -> None:
        """Give each free process a task; start processes while there are more tasks than processes."""
        for worker in list(self._workers):
            if self._queue and worker.ready and not worker.tasks:
                worker.tasks.append(self._queue.popleft())
                self._tell(worker, worker.tasks[0])
        starting = sum(not worker.ready for worker in self._workers)
        while starting < len(self._queue) and len(self._workers) < self.size:
            self._start()
            starting += 1

    def _start(self) -> None:
        """Start a process; several load their libraries at once, as none is waited for."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        taken = {worker.place for worker in self._workers}
        place = next(at for at in range(self.size) if at not in taken)
        its = surroundings(place, self.size, self._gpus, self._gpus_each)
        process = context.Process(target=serve, args=(theirs, its))
        with _no_interrupt():
            process.start()
        theirs.close()
        worker: _Worker[T] = _Worker(process, ours, place)
        self._workers.append(worker)
        self._tell(worker, self.work)

    def _tell(self, worker: _Worker[T], said: Any) -> None:
        """Send something; a process that is dead is noticed when it is heard."""
        data = pickle.dumps(said)  # what cannot be sent is our own error, and raised here
        try:
            worker.pipe.send_bytes(data)
        except OSError:
            return

    def _hear(self, worker: _Worker[T]) -> Done[T, R] | None:
        """Take what a process says: its task ended, or it asks, or it is dead."""
        try:
            message = worker.pipe.recv() if worker.pipe.poll() else None
        except (EOFError, OSError):
            return self._bury(worker)
        if message is None:
            return None if worker.process.is_alive() else self._bury(worker)
        kind, said = message
        if kind == READY:
            worker.ready, self._stillborn = True, 0
        elif kind == ASKED:
            self._tell(worker, self.answer(worker.tasks[0], said))
        elif kind == ENDED:
            return Done(worker.tasks.pop(), said)
        else:
            error, where = said
            error.__cause__ = RemoteError(where)
            if kind == BROKEN:
                raise error
            return Done(worker.tasks.pop(), error=error)
        return None

    def _bury(self, worker: _Worker[T]) -> Done[T, R] | None:
        """Reap a dead process; the task that it had is lost.

        Raises:
            UserError: processes die before they are ready, one after the other.
        """
        worker.process.join(GRACE)
        worker.process.kill()  # what closed its pipe and lives is of no use
        worker.process.join()
        how = ending(worker.process.exitcode or 0)
        worker.process.close()
        worker.pipe.close()
        self._workers.remove(worker)
        if worker.tasks:
            return Done(worker.tasks.pop(), lost=how)
        self._stillborn += not worker.ready
        if self._stillborn >= STILLBORN:
            raise UserError(
                f"{STILLBORN} worker processes in a row ended before they could work, the last {how}; "
                "try compute.workers: 1. What is finished is not done again"
            )
        return None


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes started in the block never hear Ctrl-C, not even while they load; here it is heard afterwards."""
    resource_tracker.ensure_running()  # the first process would start it, which unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ending(code: int) -> str:
    """How a process ended, in words.

    >>> ending(-9)
    'killed by signal 9 (SIGKILL), perhaps for want of memory'
    """
    if code >= 0:
        return f"ended with exit code {code}"
    names = {each.value: each.name for each in signal.Signals}
    why = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
    return f"killed by signal {-code} ({names.get(-code, 'unknown')}){why}"
