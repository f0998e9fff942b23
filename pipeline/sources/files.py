"""Files of a user's own below `data.path`: which they are, their lines, and the rows of CSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core.params import UserError

TABLES = (".csv", ".parquet")
IGNORED = ("README.md",)  # and what begins with a dot
BATCH = 1024  # rows of a Parquet file read at a time


def files_below(path: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The file that `data.path` is, or the files directly in the folder that it is, by name.

    Raises:
        UserError: there are none of these suffixes.
    """
    root, wanted = Path(path), ", ".join(suffixes)
    if root.is_file():
        if root.suffix.lower() not in suffixes:
            raise UserError(f"data.path: {root} is no file of a kind that is read here: {wanted}")
        return [root]
    if not root.is_dir():
        raise UserError(f"data.path: {root} does not exist; expected a file or a folder of {wanted}")
    files = [file for file in _entries(root) if file.suffix.lower() in suffixes and file.is_file()]
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
        for number, raw in enumerate(file, 1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path.name}, line {number}: not UTF-8: byte {error.start + 1} of the line is "
                    f"{raw[error.start]:#04x}; save the file as UTF-8"
                ) from None


def header(path: Path) -> list[str]:
    """The names of a table's columns.

    Raises:
        UserError: the file is empty or cannot be read, or a name is given twice or not at all.
    """
    if path.suffix.lower() == ".parquet":
        names = list(_parquet(path).schema_arrow.names)
    else:
        names = [name.strip() for name in next(csv.reader(lines(path)), [])]
    if not names:
        raise UserError(f"{path.name} is empty; expected a line with the names of the columns")
    for name in names:
        if not name or names.count(name) > 1:
            what = f"the name '{name}' is given to two columns" if name else "a column has no name"
            raise UserError(f"{path.name}, line 1: {what}")
    return names


def rows(path: Path, longest: int) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The rows of a table as their cells by column, or what is wrong with them; each with its line, or row from 1.

    `longest` is the most characters that a cell may have.

    Raises:
        UserError: the file as a whole cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        number = 0
        for batch in _parquet(path).iter_batches(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row
        return
    names = header(path)
    csv.field_size_limit(max(longest, 1 << 17))
    reader = csv.reader(lines(path), strict=True)
    start = 1
    try:
        for cells in reader:
            if start > 1 and cells:
                fits = len(cells) == len(names)
                told = f"the row has {len(cells)} cells; expected {len(names)}: {', '.join(names)}"
                yield start, dict(zip(names, cells, strict=True)) if fits else told
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path.name}, line {start}: not valid CSV: {error}; is a quotation mark not closed or not doubled?"
        ) from None


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path.name} is no Parquet file that can be read: {error}") from None
