"""The history of what is served: `.fairlead/history.jsonl`, a line a change, which nothing rewrites."""

from __future__ import annotations

import getpass
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from pipeline.core.params import UserError
from pipeline.core.stage import STATE

FILE = STATE / "history.jsonl"
SWITCHES = ("up", "deploy", "rollback", "canary", "repair")  # actions after which `to` is what serves


class Receipt(BaseModel, extra="ignore", frozen=True):
    """What a version was certified as; it lies beside its archive in the store too."""

    registry_version: str
    run_id: str
    archive_sha256: str


class Change(BaseModel, extra="ignore", frozen=True, populate_by_name=True):
    """One change of what is served, or one that was tried.

    After an action of `SWITCHES` that is `ok`, `to` is the model's default version; what else happens (a canary that
    begins, say) has another name.
    """

    at: str = Field(description="When, in UTC.")
    who: str = Field(description="user@host.")
    action: str = Field(description="up, deploy, rollback, canary, repair, down, ...")
    model: str
    before: str | None = Field(None, alias="from", description="The default version before; null for none.")
    after: str | None = Field(None, alias="to", description="The version that it was to become.")
    receipt: Receipt | None = Field(None, description="Of the version in `to`.")
    ok: bool = Field(True, description="False where `from` serves as before.")
    reason: str = ""
    shown: dict[str, Any] | None = Field(None, description="The statistics that a canary's end rests on.")


def record(
    action: str,
    model: str,
    before: str | None,
    after: str | None,
    receipt: Receipt | None = None,
    ok: bool = True,
    reason: str = "",
    shown: dict[str, Any] | None = None,
) -> Change:
    """Add a change, and return once it is on the disk.

    Raises:
        UserError: it cannot be written.
    """
    change = Change(
        at=now(), who=who(), action=action, model=model, before=before, after=after,
        receipt=receipt, ok=ok, reason=reason, shown=shown,
    )  # fmt: skip
    try:
        FILE.parent.mkdir(exist_ok=True)
        with FILE.open("ab+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            torn = file.read(1) not in (b"", b"\n")  # a line that a kill or a full disk cut short
            file.write(b"\n" * torn + change.model_dump_json(by_alias=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"the history {FILE} cannot be written: {error.strerror}") from None
    return change


def read(path: Path = FILE) -> list[Change]:
    """Every change, the oldest first; a line that was cut short is left out.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"the history {path} cannot be read: {error.strerror}") from None
    found = []
    for line in lines:
        try:
            found.append(Change.model_validate_json(line))
        except ValidationError:
            continue
    return found


def defaults(model: str) -> list[str]:
    """The versions of a model that a rollback can go back through, that which serves now last.

    A rollback takes away what it left, so that the next one goes further back, and not to what was given up.
    """
    stack: list[str] = []
    for change in read():
        if not _switched(change, model) or change.after is None:
            continue
        if change.action == "rollback" and change.after in stack:
            del stack[stack.index(change.after) + 1 :]
        elif not stack or stack[-1] != change.after:
            stack.append(change.after)
    return stack


def given_up(model: str, version: str) -> bool:
    """True where the last that was said of this version is that it was rolled back from."""
    for change in reversed(read()):
        if _switched(change, model):
            if change.action == "rollback" and change.before == version:
                return True
            if change.after == version:
                return False
    return False


def _switched(change: Change, model: str) -> bool:
    return change.model == model and change.ok and change.action in SWITCHES


def who() -> str:
    """The user and the machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
