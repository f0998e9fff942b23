"""What a worker process does: one task after the other, telling its coordinator how each ended."""

from __future__ import annotations

import contextlib
import os
import pickle
import traceback
from multiprocessing.connection import Connection
from typing import Any

from pipeline.engine.mapping import bound_to_parent
from pipeline.engine.tasks import Work, sendable

READY, ASKED, ENDED, RAISED, BROKEN = "ready", "asked", "ended", "raised", "broken"


class Abandoned(BaseException):
    """The coordinator has gone, so nobody waits for the result."""


def serve(pipe: Connection, surroundings: dict[str, str]) -> None:
    """What a worker process does: one task after the other, until its parent has gone."""
    bound_to_parent()
    os.environ.update(surroundings)
    with contextlib.suppress(Abandoned):
        try:
            work = _next(pipe)  # which imports what it needs
        except Exception as error:
            _send(pipe, BROKEN, (sendable(error), "".join(traceback.format_exception(error))))
            return
        _send(pipe, READY, None)
        while True:
            _one(pipe, work, _next(pipe))


def _one(pipe: Connection, work: Work[Any, Any], task: Any) -> None:
    """Do one task and send what came of it."""

    def ask(question: Any) -> Any:
        _send(pipe, ASKED, question)
        return _next(pipe)

    try:
        _send(pipe, ENDED, work(task, ask))
    except Exception as error:
        _send(pipe, RAISED, (sendable(error), "".join(traceback.format_exception(error))))


def _next(pipe: Connection) -> Any:
    """What the coordinator says next."""
    try:
        data = pipe.recv_bytes()
    except (EOFError, OSError):
        raise Abandoned from None
    return pickle.loads(data)  # noqa: S301 - of our own parent


def _send(pipe: Connection, kind: str, said: Any) -> None:
    data = pickle.dumps((kind, said))  # what cannot be sent raises before anything is sent
    try:
        pipe.send_bytes(data)
    except OSError:
        raise Abandoned from None
