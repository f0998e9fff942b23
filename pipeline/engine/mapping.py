"""Runs tasks on processes of this machine, or on the machines of a Ray cluster: the only file that imports ray."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.params import UserError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2  # tasks a worker that are handed out before their results are taken
RETRIES = 5  # of a task whose machine was lost
REACH = 10  # seconds until a cluster that does not answer is given up


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
    pool = ProcessPoolExecutor(workers, context, initializer=_bound_to_parent)
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


def _bound_to_parent() -> None:
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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("--engine ray needs the extra 'ray': pip install 'fairlead[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        _join(ray, address)

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
        if ours:
            ray.shutdown()


def _join(ray: Any, address: str) -> None:
    """Join a cluster, sending it our code, or start one."""
    import pipeline
    import serving

    if ":" in address:  # Ray itself tries for minutes
        host, _, port = address.rpartition("/")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH).close()
        except (OSError, ValueError) as error:
            raise UserError(f"no Ray cluster answers at '{address}': {error}") from None
    # Workers elsewhere need this very code.
    code = [str(Path(package.__path__[0])) for package in (pipeline, serving)]
    plain: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        plain |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        plain |= {"address": address, "runtime_env": {"py_modules": code}}
    try:
        ray.init(**plain)
    except (ConnectionError, RuntimeError, ValueError) as error:
        told = str(error).splitlines()[0]
        raise UserError(f"no Ray cluster can be joined at '{address or 'this machine'}': {told}") from None
