"""Files of a user's own below `data.path`: which they are, and their lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core.params import UserError

IGNORED = ("README.md",)  # and what begins with a dot
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # what such a file begins with


def files_below(path: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The file that `data.path` is, or the files directly in the folder that it is, by name.

    Raises:
        UserError: there are none of these suffixes.
    """
    root, wanted = Path(path), ", ".join(suffixes)
    if root.is_file():
        if not root.name.lower().endswith(suffixes):
            raise UserError(f"data.path: {root} is no file of a kind that is read here: {wanted}")
        return [root]
    if not root.is_dir():
        raise UserError(f"data.path: {root} does not exist; expected a file or a folder of {wanted}")
    files = [file for file in _entries(root) if file.name.lower().endswith(suffixes) and file.is_file()]
    if not files:
        raise UserError(f"data.path: the folder {root} holds no file that is read here: {wanted}")
    return files


def strangers(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """What lies in the folder and is not read, by name."""
    root = Path(path)
    if not root.is_dir():
        return []
    used = set(files_below(path, suffixes))
    return [entry.name for entry in _entries(root) if entry not in used and entry.name not in IGNORED]


def _entries(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.name[0] != ".")


def lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, with or without a byte-order mark.

    Raises:
        UserError: a line is not UTF-8.
    """
    with path.open("rb") as file:
        yield from decoded(file, path.name)


def decoded(raw: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines of UTF-8, the first with or without a byte-order mark.

    Raises:
        UserError: a line is not UTF-8.
    """
    for number, line in enumerate(raw, 1):
        if number == 1 and line.startswith(UTF_16):
            raise UserError(f"{name} is UTF-16; expected UTF-8, with or without a byte-order mark")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}:{number}: byte {error.start + 1} of the line, {line[error.start]:#04x}, is not UTF-8 "
                f"(Latin-1 perhaps); expected UTF-8, with or without a byte-order mark"
            ) from None
