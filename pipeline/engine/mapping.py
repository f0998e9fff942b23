"""A function over many tasks, on processes of this machine or on the machines of a Ray cluster."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pipeline.core.params import UserError
from pipeline.engine.ray_cluster import joined

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2  # tasks a worker that are handed out before their results are taken
RETRIES = 5  # of a task whose machine was lost


def on_processes(work: Callable[[T], R], tasks: Iterable[T], workers: int) -> Iterator[R]:
    """Results as they come; one worker is this process. Ended early, no process is left.

    Raises:
        UserError: a worker was killed.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    context = multiprocessing.get_context("spawn")
    waiting, pending = iter(tasks), set[Future[R]]()
    pool = ProcessPoolExecutor(workers, context, initializer=bound_to_parent)
    try:
        while True:
            more = itertools.islice(waiting, AHEAD * workers - len(pending))
            pending |= {pool.submit(work, task) for task in more}
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in done)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; run the command again, with fewer --workers: "
            "what is finished is not done again"
        ) from None
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(cancel_futures=True)


def bound_to_parent() -> None:
    """A worker leaves Ctrl-C to its parent, and ends where the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_ray(work: Callable[[T], R], tasks: Iterable[T], address: str = "") -> Iterator[R]:
    """Results as they come, from the workers of a cluster; without an address, of one started here for the purpose.

    A task whose machine is lost is done again on another.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    with joined(address) as ray:
        yield from _mapped(ray, work, tasks)


def _mapped(ray: Any, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    def one(task: T) -> R:
        return work(task)

    remote = ray.remote(max_retries=RETRIES)(one)
    waiting, pending = iter(tasks), list[Any]()
    try:
        while True:
            ahead = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            pending += [
                remote.remote(task) for task in itertools.islice(waiting, max(0, ahead - len(pending)))
            ]
            if not pending:
                return
            done, pending = ray.wait(pending)
            try:
                yield from ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, UserError) else error) from None
            except ray.exceptions.RayError as error:
                raise UserError(f"Ray gave up: {str(error).splitlines()[0]}") from None
    finally:
        for each in pending:
            ray.cancel(each, force=True)
