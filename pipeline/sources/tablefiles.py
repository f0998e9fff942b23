"""Files of rows, CSV and Parquet, read a batch at a time: cells by column, where each row stands, its digest.

CSV is read by the parser that the server reads CSV with, line by line, so that every error has its line.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from pipeline.core.params import UserError

OPENERS: dict[str, Any] = {".csv": open, ".csv.gz": gzip.open, ".csv.bz2": bz2.open}
PARQUET = ".parquet"
KNOWN = (*OPENERS, PARQUET)
BROKEN = (EOFError, OSError, zlib.error)  # what a damaged archive raises


@dataclass(frozen=True)
class Batch:
    """Some rows: the cells of every column (n each), where each row stands, and the SHA-256 of its raw content."""

    columns: dict[str, Sequence[Any]]
    origins: list[str]
    digests: list[str]


class TableFile(Protocol):
    """A file of rows; `names` are its columns in order."""

    name: str
    names: list[str]

    def batches(self, size: int, bad: list[str]) -> Iterator[Batch]:
        """Its rows, `size` at a time; rows that cannot be read are told in `bad`."""
        ...


class CsvFile:
    """A CSV file in UTF-8 with a header line, plain or compressed; an origin is `file:line`."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._open = next(opener for suffix, opener in OPENERS.items() if name.lower().endswith(suffix))
        head = next(self._rows([]), None)
        if head is None:
            raise UserError(f"{name} is empty; expected a header line and rows")
        self.names = [cell.strip() for cell in head[1]]
        if len(self.names) == 1 and (found := [mark for mark in ";\t|" if mark in self.names[0]]):
            raise UserError(f"{name}:1: the header is separated by {found[0]!r}; expected commas")
        check_names(self.names, f"{name}:1")

    def batches(self, size: int, bad: list[str]) -> Iterator[Batch]:
        """Its rows as cells of text."""
        rows: list[list[str]] = []
        origins: list[str] = []
        digests: list[str] = []
        lines = self._rows(bad)
        next(lines, None)
        for number, cells, raw in lines:
            if len(cells) != len(self.names):
                bad.append(f"{self.name}:{number}: {len(cells)} cells; expected {len(self.names)}")
                continue
            rows.append(cells)
            origins.append(f"{self.name}:{number}")
            digests.append(hashlib.sha256(raw).hexdigest())
            if len(rows) == size:
                yield Batch(dict(zip(self.names, zip(*rows, strict=True), strict=True)), origins, digests)
                rows, origins, digests = [], [], []
        if rows:
            yield Batch(dict(zip(self.names, zip(*rows, strict=True), strict=True)), origins, digests)

    def _rows(self, bad: list[str]) -> Iterator[tuple[int, list[str], bytes]]:
        """Line number, cells and bytes of every row, blank lines left out; quoted cells may hold line ends."""
        raw: list[bytes] = []
        try:
            with self._open(self.path, "rb") as file:
                reader = csv.reader(self._decoded(file, raw), strict=True)
                while True:
                    first = reader.line_num + 1
                    raw.clear()
                    try:
                        cells = next(reader)
                    except StopIteration:
                        return
                    except csv.Error as error:
                        bad.append(f"{self.name}:{first}: not valid CSV: {error}")
                        continue
                    if cells:
                        yield first, cells, b"".join(raw)
        except BROKEN as error:
            raise UserError(f"{self.name} cannot be read: {error}") from None

    def _decoded(self, file: IO[bytes], raw: list[bytes]) -> Iterator[str]:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UserError(f"{self.name} is UTF-16; expected UTF-8, with or without a byte-order mark")
            raw.append(line)
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{self.name}:{number}: byte {error.start + 1} of the line, {line[error.start]:#04x}, is not UTF-8 "
                    f"(Latin-1 perhaps); expected UTF-8, with or without a byte-order mark"
                ) from None


class ArrowFile:
    """Rows that Arrow holds or reads; an origin is `file:row`, from 1 on."""

    def __init__(self, name: str, schema: Any, batches: Callable[[int], Iterator[Any]]) -> None:
        self.name, self.names, self._batches = name, list(schema.names), batches
        check_names(self.names, name)
        self._kinds = {field.name: self._kind(field) for field in schema}

    @classmethod
    def parquet(cls, path: Path, name: str) -> ArrowFile:
        """A Parquet file, read a batch at a time."""
        import pyarrow as pa
        from pyarrow import parquet

        try:
            file = parquet.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{name} is no Parquet file or is damaged: {error}") from None
        return cls(name, file.schema_arrow, lambda size: file.iter_batches(batch_size=size))

    @classmethod
    def table(cls, table: Any, name: str) -> ArrowFile:
        """A table in memory."""
        return cls(name, table.schema, lambda size: iter(table.to_batches(max_chunksize=size)))

    def _kind(self, field: Any) -> Any:
        """The plain type that a column is read as; None leaves it."""
        import pyarrow as pa

        of, kind = pa.types, field.type
        if of.is_dictionary(kind):
            kind = kind.value_type
        if of.is_decimal(kind) or of.is_floating(kind):
            return pa.float64()
        if of.is_timestamp(kind):
            return pa.timestamp("us", "UTC" if kind.tz else None)
        if of.is_time(kind) or of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind):
            return pa.string()
        if of.is_integer(kind) or of.is_boolean(kind) or of.is_date(kind) or of.is_null(kind):
            return kind
        raise UserError(
            f"{self.name}: column '{field.name}' holds {kind}; expected numbers, booleans, dates or text"
        )

    def batches(self, size: int, bad: list[str]) -> Iterator[Batch]:
        """Its rows as Python values; None where there is none."""
        import pyarrow as pa

        del bad
        start = 0
        try:
            for batch in self._batches(size):
                columns = {
                    name: batch.column(at).cast(self._kinds[name], safe=False).to_pylist()
                    for at, name in enumerate(self.names)
                }
                origins = [f"{self.name}:{start + row + 1}" for row in range(len(batch))]
                rows = zip(*columns.values(), strict=True)
                digests = [hashlib.sha256(repr(row).encode()).hexdigest() for row in rows]
                start += len(batch)
                yield Batch(columns, origins, digests)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.name} is damaged: {error}") from None


def check_names(names: Sequence[str], place: str) -> None:
    """Every column has a name of its own; the first may have none, as of row numbers.

    Raises:
        UserError: it has not.
    """
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{place}: the column names {twice} are there twice; rename them")
    if "" in names[1:]:
        raise UserError(f"{place}: column {names.index('', 1) + 1} has no name")


def open_files(where: str) -> tuple[list[TableFile], list[str]]:
    """The files of rows at a path, a file or a folder, in the order of their names; and what else lies there.

    Raises:
        UserError: nothing there can be read, or the files have other columns.
    """
    root = Path(where)
    if not root.exists():
        raise UserError(
            f"data.path: {root} does not exist; expected a file of {' or '.join(KNOWN)}, or a folder"
        )
    if root.is_dir():
        paths = sorted(path for path in root.rglob("*") if path.is_file() and path.name[0] != ".")
        used = [path for path in paths if path.name.lower().endswith(KNOWN)]
        stray = [
            str(path.relative_to(root)) for path in paths if path not in used and path.name != "README.md"
        ]
    else:
        used, stray = [path for path in [root] if path.name.lower().endswith(KNOWN)], []
    if not used:
        raise UserError(f"data.path: {root} holds no rows; expected files of {' or '.join(KNOWN)}")
    files = [_open(path, str(path.relative_to(root)) if root.is_dir() else path.name) for path in used]
    for file in files[1:]:
        if set(file.names) != set(files[0].names):
            odd = sorted(set(file.names) ^ set(files[0].names))
            raise UserError(
                f"{file.name} and {files[0].name} differ in the columns {odd}; expected one schema"
            )
    return files, stray


def _open(path: Path, name: str) -> TableFile:
    return ArrowFile.parquet(path, name) if name.lower().endswith(PARQUET) else CsvFile(path, name)
