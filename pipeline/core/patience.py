"""Databases over a network: a lost connection is tried again for a while, a dead one gives one clear message."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from pipeline.core.params import UserError

R = TypeVar("R")
OPENING, RUNNING = 10.0, 120.0  # seconds until a database is given up: at the start, and in the midst of work
PAUSE = 0.5
# PostgreSQL's: shut down, crashed, starting up, too many connections, and all of class 08 (connections).
PASSING = ("57P01", "57P02", "57P03", "53300", "08")


def patiently(call: Callable[[], R], what: str, seconds: float | None = None) -> R:
    """The result of a call, made again while its database does not answer.

    Args:
        call: asks the database.
        what: the database, as a message names it.
        seconds: until it is given up; RUNNING where none are given.

    Raises:
        UserError: it did not answer for so long.
    """
    seconds = RUNNING if seconds is None else seconds
    began = time.monotonic()
    told = False
    while True:
        try:
            return call()
        except Exception as error:
            reason = lost(error)
            if reason is None:
                raise
            if time.monotonic() - began > seconds:
                raise UserError(
                    f"{what} does not answer for {seconds:.0f} s ({reason}); start it and run 'dvc repro' again: "
                    "what is finished is kept, and what is not goes on from its checkpoint"
                ) from None
            if not told:
                print(
                    f"{what} does not answer ({reason}); trying for {seconds:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
            told = True
            time.sleep(PAUSE)


def lost(error: BaseException) -> str | None:
    """Why a database could not be reached; None where that is not what went wrong."""
    with suppress(ModuleNotFoundError):
        from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

        for each in causes(error):
            if isinstance(each, DBAPIError) and "sqlite" not in type(each.orig).__module__:
                state = sqlstate(each.orig)
                if state.startswith(PASSING):
                    return first_line(each.orig)
                if not state and (
                    each.connection_invalidated or isinstance(each, InterfaceError | OperationalError)
                ):
                    return first_line(each.orig)
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def sqlstate(error: Any) -> str:
    """The five letters by which PostgreSQL's drivers name an error; empty where there are none."""
    held = error.args[0] if getattr(error, "args", ()) else None
    if isinstance(held, dict):  # pg8000
        return str(held.get("C", ""))
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def first_line(error: Any) -> str:
    """What a driver says, in one line."""
    held = error.args[0] if getattr(error, "args", ()) else None
    text = held.get("M", "") if isinstance(held, dict) else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]


def shown(address: str) -> str:
    """An address without its password.

    >>> shown("postgresql://me:secret@host/studies")
    'postgresql://me:***@host/studies'
    """
    scheme, there, rest = address.partition("://")
    user, at, place = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{scheme}{there}{name}{':***' if colon else ''}{at}{place}"
