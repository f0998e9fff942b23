"""What every stage shares: outputs that appear whole or not at all, and one voice for errors."""

from __future__ import annotations

import errno
import gc
import logging
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from pipeline.core.params import UserError
from pipeline.core.patience import causes
from pipeline.core.sqlite import failed

DATA = Path("data")
LOCK = Path("dvc.lock")
STATE = Path(".fairlead")  # checkpoints, studies, the server's state: what is resumed, never a stage's output


LOCK_KEPT = STATE / "dvc.lock"


def keep_lock() -> None:
    """Copy `dvc.lock` while no one writes it, as DVC waits for this stage; `fairlead check` mends with it."""
    if LOCK.exists():
        STATE.mkdir(exist_ok=True)
        fresh = LOCK_KEPT.with_suffix(f".{os.getpid()}.new")  # torchrun starts a stage several times
        shutil.copy(LOCK, fresh)
        fresh.replace(LOCK_KEPT)


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `output` when the block ends well.

    Until then the earlier output stays as it was; a failure or a kill leaves it so.
    """
    fresh = output.with_name(f".{output.name}.new")
    stale = output.with_name(f".{output.name}.old")
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if output.exists():
        output.rename(stale)
    fresh.rename(output)
    shutil.rmtree(stale, ignore_errors=True)


def explain(error: OSError) -> str:
    """What an operating-system error means to a user, and what to do."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full{where}: free some space and run 'dvc repro' again; earlier outputs are intact"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission{where}: make it readable and writable for this user and run 'dvc repro' again"
    if error.errno == errno.ENOENT and Path(str(error.filename)).parts[:1] == DATA.parts:
        return (
            f"no such file{where}: the output of an earlier stage is missing; 'dvc repro' makes what is missing, "
            "'dvc checkout --force' brings back what was recorded"
        )
    return f"{error.strerror or error}{where}"


def disk_full(text: str) -> bool:
    """True for the message of an error that came of a full disk; some libraries wrap it in their own error."""
    return any(sign in text for sign in ("No space left", "disk is full", "inline_container"))


def told(error: Exception) -> str | None:
    """The message for an error that is the user's or the machine's; None for one that is our own."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if disk_full(text):
        return explain(OSError(errno.ENOSPC, "no space left"))
    if isinstance(error, OSError):
        return explain(error)
    if type(error).__name__ == "SafetensorError":
        return f"a weights file is damaged ({text}); 'dvc checkout --force' brings back the recorded one"
    if isinstance(error, ValidationError) and error.errors()[0]["type"] == "json_invalid":
        return (
            f"the file of a {error.title} in {DATA} is damaged ({error.errors()[0]['msg']}); 'dvc checkout --force' "
            "brings back the recorded one"
        )
    if reason := next((failed(each) for each in causes(error) if isinstance(each, sqlite3.Error)), None):
        return (
            f"a database file, of tracking.studies or tracking.uri, cannot be used any more: {reason}; "
            "earlier outputs are intact, and 'dvc repro' goes on from here"
        )
    if type(error).__module__.startswith("alembic."):
        return (
            f"tracking.uri (or MLFLOW_TRACKING_URI) names a database of another program, or of another version of "
            f"MLflow ({text}); name one of its own, such as sqlite:///mlflow.db"
        )
    if type(error).__module__.startswith("mlflow."):
        return f"MLflow failed: {text}\nearlier outputs are intact; 'dvc repro' goes on from here"
    return None


def main(run: Callable[[], None], name: str) -> None:
    """Run a stage as a program: errors of users and machines become one message and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.perf_counter()
    message: str | None
    gc.freeze()  # what was imported stays
    try:
        keep_lock()
        run()
    except KeyboardInterrupt:
        message = "interrupted; earlier outputs are intact, and 'dvc repro' goes on from here"
    except Exception as error:
        message = told(error)
        if message is None or os.environ.get("FAIRLEAD_DEBUG"):
            raise
    else:
        print(f"{name}: done in {time.perf_counter() - began:.1f} s", flush=True)
        return
    finally:
        gc.freeze()  # the process ends: taking torch and MLflow apart object by object lasts 1 to 2 s
    print(f"\n{name}: {message}", file=sys.stderr, flush=True)
    sys.exit(1)
