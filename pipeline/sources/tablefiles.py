"""Files of rows, CSV and Parquet, read a batch at a time: cells by column, where each row stands, its digest.

CSV is read by the parser that the server reads CSV with, line by line, so that every error has its line. Tables,
texts and manifests are read here; long tables of series are read by Arrow, and here where something is wrong.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.params import UserError
from pipeline.sources.files import decoded

OPENERS: dict[str, Any] = {".csv": open, ".csv.gz": gzip.open, ".csv.bz2": bz2.open}
PARQUET = ".parquet"
KNOWN = (*OPENERS, PARQUET)
BROKEN = (EOFError, OSError, zlib.error)  # what a damaged archive raises
LONGEST = 1 << 17  # characters of a cell of CSV at most, where nothing else is said
CARRIAGE = (
    "new-line character seen in unquoted field"  # what the parser says of lines that end as on an old Mac
)
SHOWN = 3  # rows that cannot be read, in the message about a file without any that can


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

    def batches(self, size: int, bad: list[str], wanted: Sequence[str] = ()) -> Iterator[Batch]:
        """Its rows, `size` at a time, at least the columns `wanted` (empty: all); others are told in `bad`."""
        ...


class CsvFile:
    """A CSV file in UTF-8 with a header line, plain or compressed; an origin is `file:line`."""

    def __init__(self, path: Path, name: str, longest: int = LONGEST) -> None:
        self.path, self.name, self._longest = path, name, max(longest, LONGEST)
        self._open = next(opener for suffix, opener in OPENERS.items() if name.lower().endswith(suffix))
        bad: list[str] = []
        head = next(self._rows(bad), None)
        if bad:
            raise UserError(bad[0])
        if head is None:
            raise UserError(f"{name} is empty; expected a header line and rows")
        self.begins = head[0] - 1 + max(head[2].count(b"\n"), 1)  # lines above the first row
        self.names = [cell.strip() for cell in head[1]]
        if len(self.names) == 1 and (found := [mark for mark in ";\t|" if mark in self.names[0]]):
            raise UserError(f"{name}:1: the header is separated by {found[0]!r}; expected commas")
        check_names(self.names, f"{name}:1")

    def batches(self, size: int, bad: list[str], wanted: Sequence[str] = ()) -> Iterator[Batch]:
        """Its rows as cells of text, all columns."""
        del wanted
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
        csv.field_size_limit(self._longest)
        try:
            with self._open(self.path, "rb") as file:
                reader = csv.reader(decoded(_kept(file, raw), self.name), strict=True)
                while True:
                    first = reader.line_num + 1
                    raw.clear()
                    try:
                        cells = next(reader)
                    except StopIteration:
                        return
                    except csv.Error as error:
                        bad.append(f"{self.name}:{first}: not valid CSV: {why(error)}")
                        continue
                    if cells:
                        yield first, cells, b"".join(raw)
        except BROKEN as error:
            raise UserError(f"{self.name} cannot be read: {error}") from None


def _kept(file: Iterable[bytes], raw: list[bytes]) -> Iterator[bytes]:
    """Lines that are noted down as they go by."""
    for line in file:
        raw.append(line)
        yield line


def why(error: csv.Error) -> str:
    """What the parser means."""
    text = str(error)
    if text.startswith(CARRIAGE):
        return "a carriage return within a line; expected lines that end in \\n or \\r\\n"
    return f"{text}; is a quotation mark not closed?" if "end of data" in text else text


class ArrowFile:
    """Rows that Arrow holds or reads; an origin is `file:row`, from 1 on."""

    def __init__(self, name: str, schema: Any, batches: Callable[[int], Iterator[Any]]) -> None:
        self.name, self.names, self._schema, self._batches = name, list(schema.names), schema, batches
        check_names(self.names, name)

    @classmethod
    def parquet(cls, path: Path, name: str) -> ArrowFile:
        """A Parquet file, read a batch at a time."""
        import pyarrow as pa
        from pyarrow import parquet

        try:
            file = parquet.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{name} is no Parquet file or is damaged: {plain(error)}") from None
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

    def batches(self, size: int, bad: list[str], wanted: Sequence[str] = ()) -> Iterator[Batch]:
        """Its rows as Python values, the columns `wanted` alone; None where there is none."""
        import pyarrow as pa

        del bad
        kinds = {name: self._kind(self._schema.field(name)) for name in wanted or self.names}
        start = 0
        try:
            for batch in self._batches(size):
                columns = {
                    name: batch.column(name).cast(kind, safe=False).to_pylist()
                    for name, kind in kinds.items()
                }
                origins = [f"{self.name}:{start + row + 1}" for row in range(len(batch))]
                rows = zip(*columns.values(), strict=True)
                digests = [hashlib.sha256(repr(row).encode()).hexdigest() for row in rows]
                start += len(batch)
                yield Batch(columns, origins, digests)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.name} is damaged: {plain(error)}") from None


def plain(error: BaseException) -> str:
    """An error of Arrow's in one line."""
    return " ".join(str(error).split())


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
    files = [open_file(path, str(path.relative_to(root)) if root.is_dir() else path.name) for path in used]
    for file in files[1:]:
        if set(file.names) != set(files[0].names):
            odd = sorted(set(file.names) ^ set(files[0].names))
            raise UserError(
                f"{file.name} and {files[0].name} differ in the columns {odd}; expected one schema"
            )
    return files, stray


def open_file(path: Path, name: str = "", longest: int = LONGEST) -> TableFile:
    """One file of rows, called `name`; cells of CSV have `longest` characters at most.

    Raises:
        UserError: it cannot be read, or its columns have no names of their own.
    """
    name = name or path.name
    return ArrowFile.parquet(path, name) if name.lower().endswith(PARQUET) else CsvFile(path, name, longest)


def no_rows(names: Sequence[str], bad: Sequence[str]) -> UserError:
    """What to say of files that hold nothing to use."""
    why = f": {'; '.join(bad[:SHOWN])}" if bad else "; expected a row at least below the header"
    return UserError(f"{', '.join(names)} holds no rows that can be used{why}")
