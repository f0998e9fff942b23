"""SQLite files: one that is none, or is damaged, is told by its name before a library is given it, which may hang."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.core.params import UserError

SCHEME = "sqlite:///"
TIMEOUT = 30.0  # seconds until a file that another process writes to is given up
MEND = (
    ("locked", "end the program that holds it"),
    ("malformed", "put back a copy of it, or move it away and a new one is begun"),
    ("not a database", "name another file, or move it away and a new one is begun"),
    ("readonly", "make it and its folder writable for this user"),
    ("unable to open", "make it readable and writable for this user, and see that its folder exists"),
    ("disk I/O", "look at the disk, which does not answer as it should"),
)


def check_file(address: str, key: str) -> None:
    """Make the folder of the SQLite file at an address, and read the file where there is one.

    Args:
        address: sqlite:///FILE; any other is not looked at.
        key: of `params.yaml`, and the variable that wins over it, for messages.

    Raises:
        UserError: it names no file, or one that is no database, is damaged or cannot be read.
    """
    if not address.startswith("sqlite:"):
        return
    name = address.removeprefix(SCHEME).partition("?")[0]
    if name in ("", ":memory:", address):
        raise UserError(f"{key}: '{address}' names no file, so nothing would be kept; expected {SCHEME}FILE")
    if name.startswith("file:"):
        return
    path = Path(name)
    if path.is_dir():
        raise UserError(
            f"{key}: '{path}' is a folder; expected {SCHEME}FILE, such as {SCHEME}{path / 'a.db'}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{key}: the folder '{path.parent}' cannot be made ({error.strerror}); name another file"
        ) from None
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=TIMEOUT)) as file:
            file.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        raise UserError(f"{key}: '{path}' cannot be used: {failed(error)}. Nothing was changed") from None


def failed(error: BaseException) -> str:
    """What SQLite says, and what to do.

    >>> failed(sqlite3.OperationalError("attempt to write a readonly database"))
    'attempt to write a readonly database; make it and its folder writable for this user'
    """
    said = str(error)
    advice = next((what for sign, what in MEND if sign in said), "")
    return f"{said}; {advice}" if advice else said
