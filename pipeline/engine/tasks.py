"""Tasks that run elsewhere and ask their coordinator questions meanwhile: the contract that every engine keeps."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.fitting.compute import Compute

T = TypeVar("T")
R = TypeVar("R")
Ask = Callable[[Any], Any]  # a running task's question to its coordinator, which waits for the answer
Work = Callable[[T, Ask], R]  # a function of a module, since it is sent to other processes
Answer = Callable[[T, Any], Any]  # what the coordinator says to a question of a task


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """A task that ended: with its result, with the exception that it raised, or lost with its process or machine."""

    task: T
    result: R | None = None
    error: Exception | None = None
    lost: str = ""  # what became of its process


class Executor(ABC, Generic[T, R]):
    """Runs tasks, `size` of them at once; the coordinator alone talks to storages and shows progress.

    A task may be submitted again after it was lost: work goes on from what it left on disk.
    """

    size: int
    apart = True  # tasks run in processes of their own, so that the end of one is not that of its coordinator

    def __init__(self, work: Work[T, R], answer: Answer[T]) -> None:
        self.work, self.answer = work, answer

    @property
    @abstractmethod
    def running(self) -> int:
        """Tasks submitted and not ended."""

    @abstractmethod
    def submit(self, task: T) -> None:
        """Hand a task out; call it while fewer than `size` are running."""

    @abstractmethod
    def wait(self) -> Done[T, R]:
        """The next task that ends. Questions are answered meanwhile, in this thread."""

    @abstractmethod
    def close(self) -> None:
        """End what runs; no process is left."""


class Here(Executor[T, R]):
    """One task at a time, in this process."""

    size = 1
    apart = False

    def __init__(self, work: Work[T, R], answer: Answer[T]) -> None:
        super().__init__(work, answer)
        self._waiting: deque[T] = deque()

    @property
    def running(self) -> int:
        """Tasks submitted and not ended."""
        return len(self._waiting)

    def submit(self, task: T) -> None:
        """Queue a task."""
        self._waiting.append(task)

    def wait(self) -> Done[T, R]:
        """Run the first task that waits."""
        task = self._waiting[0]
        try:
            return Done(task, self.work(task, lambda question: self.answer(task, question)))
        except Exception as error:
            return Done(task, error=error)
        finally:
            self._waiting.popleft()

    def close(self) -> None:
        """Nothing runs between two calls."""


def sendable(error: Exception) -> Exception:
    """The error, or what it says where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            plain.add_note(note)
        return plain
    return error


@contextmanager
def executor(work: Work[T, R], answer: Answer[T], compute: Compute) -> Iterator[Executor[T, R]]:
    """The executor that the section `compute` asks for, closed in the end."""
    pool = _opened(work, answer, compute)
    try:
        yield pool
    finally:
        pool.close()


def _opened(work: Work[T, R], answer: Answer[T], compute: Compute) -> Executor[T, R]:
    if compute.engine == "ray":
        from pipeline.engine.ray_tasks import RayTasks

        return RayTasks(work, answer, compute)
    from pipeline.engine.local import Local
    from pipeline.engine.places import at_once

    gpus = 0
    if compute.workers != 1 and compute.accelerator != "cpu":
        import torch

        gpus = torch.cuda.device_count()
    size = at_once(compute.workers, gpus, compute.gpus_per_trial)
    return Local(work, answer, size, gpus, compute.gpus_per_trial) if size > 1 else Here(work, answer)
