"""One session at a time for a study, which in a database can be opened from many folders and machines."""

from __future__ import annotations

import itertools
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import psutil

from pipeline.core.params import UserError
from pipeline.core.pulse import pulse

HELD = (
    "held"  # kept with the study: machine, process, when that process began, how often it said that it lives
)
BEAT, BEATS = 5.0, 3  # seconds between two; so many may be missing

Holder = list[str | float]


@contextmanager
def held(study: optuna.Study) -> Iterator[None]:
    """Hold a study while the block runs. Who died holding it does not: on this machine that is seen at once.

    No clocks are compared: a holder on another machine lives where its beats go on. Where this process was away for so
    long that another took the study, the block is interrupted.

    Raises:
        UserError: another process holds it, here or elsewhere; nothing was changed.
    """
    refuse_living(study)
    began = psutil.Process().create_time()
    mine: Holder = [
        machine(),
        os.getpid(),
        began,
        time.time(),
    ]  # the last makes it another than an earlier one's
    count, lost = itertools.count(1), threading.Event()
    main = threading.main_thread().ident

    def beat() -> None:
        if holder(study)[:4] == mine:
            study.set_user_attr(HELD, [*mine, next(count)])
        elif main and not lost.is_set():
            lost.set()
            print("tune: another process searches this study now", file=sys.stderr, flush=True)
            signal.pthread_kill(main, signal.SIGINT)  # wakes it from whatever it waits for

    study.set_user_attr(HELD, [*mine, 0])
    if holder(study)[:4] != mine:
        refuse_living(study)  # who came at the same moment and wrote last has it
    try:
        with pulse(beat, BEAT, "holding"):
            yield
    finally:
        if holder(study)[:4] == mine:
            study.set_user_attr(HELD, [])


def holder(study: optuna.Study) -> Holder:
    """What is stored; empty where nobody holds the study, or what is there is nothing that a holder wrote."""
    found = study.user_attrs.get(HELD)
    if not isinstance(found, list) or [type(each) for each in found[:2]] != [str, int]:
        return []
    return found if len(found) == 5 and all(isinstance(each, int | float) for each in found[2:]) else []


def refuse_living(study: optuna.Study) -> None:
    """Return where nobody that lives holds the study.

    Raises:
        UserError: somebody does.
    """
    found = holder(study)
    if not found or not (lives(study, found) if found[0] == machine() else beats(study, found)):
        return
    place = "this machine" if found[0] == machine() else f"'{str(found[0]).partition('/')[0]}'"
    raise UserError(
        f"the study '{study.study_name}' is searched by process {found[1]} of {place}, which keeps it in the same "
        "database; wait until it ends, or end it there. Nothing was changed"
    )


def machine() -> str:
    """This machine, or the container that stands for one: its name, and what tells it from others of that name."""
    return f"{platform.node()}/{uuid.getnode():x}"


def lives(study: optuna.Study, found: Holder) -> bool:
    """True where the holder is a process of this machine that runs.

    One of its number that seems to have begun at another time is another, or the clock was set: then its beats tell.
    """
    try:
        began = psutil.Process(int(found[1])).create_time()
    except (psutil.Error, ValueError, OverflowError):
        return False
    return abs(began - float(found[2])) < 1 or beats(study, found)


def beats(study: optuna.Study, found: Holder) -> bool:
    """True where the holder says that it lives while it is listened for."""
    name = str(found[0]).partition("/")[0]
    print(
        f"tune: this study was last searched on '{name}'; listening whether it still is",
        file=sys.stderr,
        flush=True,
    )
    until = time.monotonic() + BEAT * BEATS
    while time.monotonic() < until:
        time.sleep(BEAT / 10)
        if (now := holder(study)) != found:
            return bool(now)
    return False
