"""Processes that do one work together: none goes on without the others, and none outlives the one that started them."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from pipeline.core.params import UserError
from pipeline.engine.mapping import bound_to_parent
from pipeline.engine.tasks import sendable

Tell = Callable[[Any], None]  # sends to the parent what a process has to say, in order
GRACE = 3.0  # seconds in which the one that died first is told from those that died of it


def run_all(work: Callable[..., None], given: list[tuple[Any, ...]], take: Tell) -> None:
    """Call `work(tell, *arguments)` in a process for each of the given; `take` is called here with what they tell.

    What is told is plain data: a tensor would be sent as a handle, which ends with its process.

    Raises:
        UserError: a process was killed.
        Exception: the first error of one of them.
    """
    with _started(work, given) as group:
        _listen(group, take)


def _run(pipe: Connection, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """What a process does; its error goes to the parent."""
    bound_to_parent()

    def tell(message: Any) -> None:
        pipe.send(("told", message))

    try:
        work(tell, *arguments)
    except Exception as error:
        error.add_note(traceback.format_exc())
        pipe.send(("error", sendable(error)))
        sys.exit(1)


@contextmanager
def _started(work: Callable[..., None], given: list[tuple[Any, ...]]) -> Iterator[dict[Connection, Any]]:
    """Processes that work, by the pipes that they tell by; in the end none is left."""
    context = get_context("spawn")
    group: dict[Connection, Any] = {}
    try:
        for rank, arguments in enumerate(given):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_run, args=(theirs, work, arguments), name=f"companion-{rank}", daemon=True
            )
            with _deaf_to_ctrl_c():
                process.start()
            theirs.close()
            group[ours] = process
        yield group
    finally:
        for pipe, process in group.items():
            process.kill()
            process.join()
            pipe.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started within ignores Ctrl-C from its first moment, and leaves it to this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _listen(group: dict[Connection, Any], take: Tell) -> None:
    """Take what processes tell until all of them have ended well.

    Raises:
        UserError: one was killed.
    """
    alive = list(group)
    while alive:
        for pipe in wait(alive):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except (EOFError, ConnectionResetError):
                alive.remove(pipe)
                group[pipe].join()
                if group[pipe].exitcode:
                    raise _reason(group, []) from None
                continue
            if message[0] == "error":
                raise _reason(group, [message[1]])
            take(message[1])


def _reason(group: dict[Connection, Any], errors: list[Exception]) -> Exception:
    """Why the group ended: the first of its errors, unless one was killed, of which the others' errors come."""
    end = time.monotonic() + GRACE
    while (
        time.monotonic() < end and not (dead := _killed(group)) and any(p.is_alive() for p in group.values())
    ):
        time.sleep(0.05)
    for pipe in group:
        with suppress(EOFError, OSError):
            while pipe.poll():
                message = pipe.recv()
                errors += [message[1]] if message[0] == "error" else []
    if dead := _killed(group):
        rank, sign = dead[0]
        return UserError(
            f"process {rank} of the {len(group)} that train together was killed ({signal.Signals(sign).name}), perhaps "
            "for want of memory, and the others were ended; run 'dvc repro' again: it goes on from the last checkpoint"
        )
    theirs = [error for error in errors if isinstance(error, UserError)]
    return (theirs or errors or [RuntimeError("a process that trains ended without a word")])[0]


def _killed(group: dict[Connection, Any]) -> list[tuple[int, int]]:
    """Number and signal of each process that was killed."""
    codes = [(rank, process.exitcode) for rank, process in enumerate(group.values())]
    return [(rank, -code) for rank, code in codes if code is not None and code < 0]
