"""Tasks on the machines of a Ray cluster, each with its CPUs and its share of a GPU.

Ray repeats nothing by itself: a task that was lost with its process or its machine is told as lost, and the coordinator
hands it out again, to go on from its checkpoint. Questions go through one small actor beside the coordinator, which is
woken by them: nobody polls.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.core.params import UserError
from pipeline.engine.ray_cluster import alive, enter, joined, shared_folder
from pipeline.engine.tasks import Answer, Done, Executor, Work, sendable

if TYPE_CHECKING:
    from pipeline.fitting.compute import Compute

T = TypeVar("T")
R = TypeVar("R")
QUEUED = 10_000  # questions that may wait at once
STUCK = 60.0  # seconds without news after which it is looked whether tasks wait for a machine


class Desk:
    """Where running tasks leave questions, and the coordinator answers; an asynchronous actor."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[int, int, Any]] = asyncio.Queue()
        self.answers: dict[int, asyncio.Future[Any]] = {}
        self.number = 0

    async def ask(self, task: int, question: Any) -> Any:
        """A task's question; returns when it is answered."""
        number = self.number = self.number + 1
        self.answers[number] = asyncio.get_running_loop().create_future()
        await self.asked.put((task, number, question))
        try:
            return await self.answers[number]
        finally:
            self.answers.pop(number, None)

    async def take(self) -> tuple[int, int, Any]:
        """The next question, waited for: of which task, its number, itself."""
        return await self.asked.get()

    async def answer(self, number: int, answer: Any) -> None:
        """Answer a question; one whose task has gone is left."""
        waiting = self.answers.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)


def desk_beside(ray: Any) -> Any:
    """A desk on the node of this process, so that it is lost only with it."""
    node = ray.get_runtime_context().get_node_id()
    beside = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Desk).options(num_cpus=0, max_concurrency=QUEUED, scheduling_strategy=beside).remote()


class RayTasks(Executor[T, R]):
    """Tasks on a Ray cluster that is joined, or started here; `compute.workers` at once, or as many as fit.

    Raises:
        UserError: Ray is not installed, no cluster answers, or no node has what a task needs.
    """

    def __init__(self, work: Work[T, R], answer: Answer[T], compute: Compute) -> None:
        super().__init__(work, answer)
        self._stack = ExitStack()
        try:
            self._open(compute)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, compute: Compute) -> None:
        self._ray = self._stack.enter_context(joined(compute.ray_address))
        self._mark = self._stack.enter_context(shared_folder())
        self._workers = compute.workers
        self._needs = needs(alive(self._ray), compute)
        self._tasks: dict[int, T] = {}
        self._refs: dict[Any, int] = {}  # of what ran to its end, or did not
        self._number = 0
        self._desk = desk_beside(self._ray)
        self._stack.callback(self._ray.kill, self._desk)
        self._asked = self._desk.take.remote()
        self._remote = self._ray.remote(max_retries=0, **self._needs)(attempt)

    @property
    def size(self) -> int:  # type: ignore[override]
        """`compute.workers`, or as many as the cluster has room for now."""
        return self._workers or max(1, sum(room(node, self._needs) for node in alive(self._ray)))

    @property
    def running(self) -> int:
        """Tasks submitted and not ended."""
        return len(self._refs)

    def submit(self, task: T) -> None:
        """Hand a task to the cluster."""
        self._number += 1
        ref = self._remote.remote(self.work, task, self._desk, self._number, self._mark)
        self._refs[ref], self._tasks[self._number] = self._number, task

    def wait(self) -> Done[T, R]:
        """The next task that ends. Questions are answered meanwhile, in this thread."""
        while True:
            ready, _ = self._ray.wait([self._asked, *self._refs], timeout=STUCK)
            if not ready:
                self._tell_stuck()
            elif ready[0] == self._asked:
                self._answer()
            else:
                task = self._tasks.pop(self._refs.pop(ready[0]))
                return self._done(task, ready[0])

    def _answer(self) -> None:
        task, number, question = self._ray.get(self._asked)
        self._asked = self._desk.take.remote()
        if task in self._tasks:  # else it was lost since
            self._desk.answer.remote(number, self.answer(self._tasks[task], question))

    def _done(self, task: T, ref: Any) -> Done[T, R]:
        """What became of a task."""
        failures = self._ray.exceptions
        try:
            result, error = self._ray.get(ref)
        except failures.RayTaskError as told:  # what it returned, or raised, cannot be sent
            return Done(task, error=RuntimeError(str(told).strip().splitlines()[-1]))
        except failures.RuntimeEnvSetupError as told:
            raise UserError(f"Ray cannot set up a worker: {str(told).splitlines()[0]}") from None
        except failures.RayError as told:
            reason = str(told).strip().splitlines()[0].partition(". ")[0]
            return Done(task, lost=f"{type(told).__name__}: {reason}")
        return Done(task, result, error)

    def _tell_stuck(self) -> None:
        nodes = alive(self._ray)
        if not any(room(node, self._needs) for node in nodes):
            print(
                f"{len(self._refs)} tasks wait for a node: none of the {len(nodes)} that Ray has offers "
                f"{', '.join(f'{count:g} {name[4:]}' for name, count in self._needs.items())}",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """End what runs; no process is left."""
        for ref in self._refs:
            self._ray.cancel(ref, force=True)
        self._refs.clear()
        self._stack.close()


def attempt(
    work: Work[T, R], task: T, desk: Any, number: int, mark: str
) -> tuple[R | None, Exception | None]:
    """Run a task on a worker of the cluster, in the project's folder: its result, or what it raised."""
    import ray

    def ask(question: Any) -> Any:
        return ray.get(desk.ask.remote(number, question))

    try:
        enter(mark)
        return work(task, ask), None
    except Exception as error:
        return None, sendable(error)


def needs(nodes: list[dict[str, float]], compute: Compute) -> dict[str, float]:
    """The CPUs of a task, and its share of a GPU where there are GPUs, as Ray calls them.

    Raises:
        UserError: no node has as many GPUs.
    """
    largest: Callable[[str], float] = lambda name: max((node.get(name, 0.0) for node in nodes), default=0.0)  # noqa: E731
    asked: dict[str, float] = {"num_cpus": max(1.0, min(float(compute.threads), largest("CPU")))}
    most = largest("GPU")
    if compute.accelerator == "gpu" and not most:
        raise UserError(
            "compute.accelerator is 'gpu' and no node of the Ray cluster has a GPU; use 'auto' or 'cpu'"
        )
    if compute.accelerator == "cpu" or not most or not compute.gpus_per_trial:
        return asked
    if compute.gpus_per_trial > most:
        raise UserError(
            f"compute.gpus_per_trial is {compute.gpus_per_trial:g}; no node of the Ray cluster has more than {most:g}"
        )
    if compute.gpus_per_trial > 1 and compute.gpus_per_trial % 1:
        raise UserError(
            f"compute.gpus_per_trial is {compute.gpus_per_trial:g}; above 1, Ray shares out whole GPUs"
        )
    return {**asked, "num_gpus": compute.gpus_per_trial}


def room(node: dict[str, float], asked: dict[str, float]) -> int:
    """How many tasks a node has room for.

    >>> room({"CPU": 8, "GPU": 1}, {"num_cpus": 1, "num_gpus": 0.25})
    4
    """
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return min(int(node.get(names[name], 0) / count + 1e-9) for name, count in asked.items())
