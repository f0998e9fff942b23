"""Rows of CSV and Parquet files and lines of text, read from any place on, so that workers can share a file.

Every row stays in its place: one that cannot be read is told and kept, as scoring has to answer for it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pipeline.core.params import UserError
from pipeline.sources.tablefiles import LONGEST, ArrowFile, CsvFile, plain, why

Mark = tuple[int, int]  # where a row begins: byte and line of text, twice the row's number of Parquet
NOT_UTF8 = "not UTF-8 (Latin-1 perhaps); expected UTF-8"


@dataclass(frozen=True)
class RowBatch:
    """Some rows: where each begins, the cells wanted by column, the kept columns as Arrow, and what is unreadable."""

    marks: list[Mark]
    columns: dict[str, Sequence[Any]]
    kept: dict[str, Any]
    wrong: dict[int, str]

    def __len__(self) -> int:
        return len(self.marks)


class RowFile(Protocol):
    """A file of rows; `names` are its columns, `begins` where the first row is."""

    name: str
    names: list[str]
    begins: Mark

    def index(self, size: int) -> Iterator[tuple[Mark, int]]:
        """Where every `size`-th row begins, and how many rows follow until the next."""
        ...

    def read(
        self, mark: Mark, count: int | None, size: int, wanted: Sequence[str], keep: Sequence[str] = ()
    ) -> Iterator[RowBatch]:
        """`count` rows from a mark on (None: all), `size` at a time."""
        ...

    def kinds(self, keep: Sequence[str]) -> dict[str, Any]:
        """The Arrow types of columns that are kept."""
        ...


class Lines:
    """The lines of a file from a mark on, as text; the next one begins at byte `offset`, and is line `line`."""

    def __init__(self, file: BinaryIO, mark: Mark) -> None:
        self._file, (self.offset, self.line), self.odd = file, mark, False
        file.seek(self.offset)

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        raw = self._file.readline()
        if not raw:
            raise StopIteration
        marked = self.offset == 0
        self.offset += len(raw)
        self.line += 1
        try:
            return raw.decode("utf-8-sig" if marked else "utf-8")
        except UnicodeDecodeError:
            self.odd = True
            return raw.decode("utf-8", "surrogateescape")


def records(path: Path, mark: Mark, longest: int) -> Iterator[tuple[Mark, list[str] | None, str]]:
    """Rows of plain CSV: where each begins, its cells, and why it cannot be read; blank lines are left out."""
    csv.field_size_limit(longest)
    with path.open("rb") as file:
        lines = Lines(file, mark)
        reader = csv.reader(lines, strict=True)
        while True:
            begins, lines.odd = (lines.offset, lines.line), False
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield begins, None, f"not valid CSV: {why(error)}"
                continue
            if cells:
                yield (begins, None, NOT_UTF8) if lines.odd else (begins, cells, "")


class CsvRows:
    """Plain CSV with a header; an origin is `file:line`."""

    def __init__(self, path: Path, name: str, longest: int = LONGEST) -> None:
        self.path, self.name, self._longest = path, name, max(longest, LONGEST)
        self.names = CsvFile(path, name, longest).names
        rows = records(path, (0, 1), self._longest)
        next(rows)
        first = next(rows, None)
        self.begins = first[0] if first else (path.stat().st_size, 0)

    def index(self, size: int) -> Iterator[tuple[Mark, int]]:
        """Where every `size`-th row begins; the file is read once, as quoted cells may hold line ends."""
        rows = records(self.path, self.begins, self._longest)
        for mark, _, _ in rows:
            yield mark, 1 + sum(1 for _ in islice(rows, size - 1))

    def read(
        self, mark: Mark, count: int | None, size: int, wanted: Sequence[str], keep: Sequence[str] = ()
    ) -> Iterator[RowBatch]:
        """Rows as cells of text; None throughout a row that cannot be read."""
        import pyarrow as pa

        rows = islice(records(self.path, mark, self._longest), count)
        while taken := list(islice(rows, size)):
            wrong: dict[int, str] = {}
            whole: list[Sequence[str | None]] = []
            for at, ((_, line), cells, problem) in enumerate(taken):
                if cells is not None and len(cells) == len(self.names):
                    whole.append(cells)
                    continue
                told = problem or f"{len(cells or ())} cells; expected {len(self.names)}"
                wrong[at] = f"{self.name}:{line}: {told}"
                whole.append((None,) * len(self.names))
            columns = dict(zip(self.names, zip(*whole, strict=True), strict=True))
            yield RowBatch(
                [mark for mark, _, _ in taken], {name: columns[name] for name in wanted},
                {name: pa.array(columns[name], pa.string()) for name in keep}, wrong,
            )  # fmt: skip

    def kinds(self, keep: Sequence[str]) -> dict[str, Any]:
        """Text, all of them."""
        import pyarrow as pa

        return {name: pa.string() for name in keep}


class ParquetRows:
    """A Parquet file; an origin is `file:row`, from 1 on."""

    begins: Mark = (0, 0)

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.names = ArrowFile.parquet(path, name).names

    @cached_property
    def _file(self) -> Any:
        from pyarrow import parquet

        return parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20)

    def index(self, size: int) -> Iterator[tuple[Mark, int]]:
        """Every `size`-th row, by its number."""
        rows = self._file.metadata.num_rows
        for at in range(0, rows, size):
            yield (at, at), min(size, rows - at)

    def _batches(
        self, start: int, count: int | None, size: int, columns: list[str]
    ) -> Iterator[tuple[int, Any]]:
        """The number of the first row, and rows; groups of rows that lie elsewhere are passed over unread."""
        at, end = 0, start + count if count is not None else self._file.metadata.num_rows
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if at + rows <= start or at >= end:
                at += rows
                continue
            for batch in self._file.iter_batches(
                size, row_groups=[group], columns=columns, use_threads=False
            ):
                first, last = max(start - at, 0), min(end - at, len(batch))
                if first < last:
                    yield at + first, batch.slice(first, last - first)
                at += len(batch)

    def read(
        self, mark: Mark, count: int | None, size: int, wanted: Sequence[str], keep: Sequence[str] = ()
    ) -> Iterator[RowBatch]:
        """Rows as Python values; kept columns stay as they are."""
        import pyarrow as pa

        kinds = self.kinds(keep)
        try:
            for first, batch in self._batches(mark[0], count, size, list(dict.fromkeys([*wanted, *keep]))):
                cells = ArrowFile.table(pa.Table.from_batches([batch]), self.name)
                columns = next(iter(cells.batches(len(batch), [], wanted))).columns if wanted else {}
                kept = {name: batch.column(name).cast(kind) for name, kind in kinds.items()}
                yield RowBatch([(first + row,) * 2 for row in range(len(batch))], columns, kept, {})
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.name} is damaged: {plain(error)}") from None

    def kinds(self, keep: Sequence[str]) -> dict[str, Any]:
        """Their own types, dictionaries as what they hold."""
        schema = self._file.schema_arrow
        return {name: getattr(schema.field(name).type, "value_type", schema.field(name).type)
                if str(schema.field(name).type).startswith("dictionary") else schema.field(name).type
                for name in keep}  # fmt: skip


def lines_from(path: Path, mark: Mark) -> Iterator[tuple[Mark, bytes]]:
    """Lines of a text file that are not blank, as bytes, with where each begins."""
    with path.open("rb") as file:
        file.seek(mark[0])
        offset, number = mark
        for line in file:
            if line.strip():
                yield (offset, number), line
            offset, number = offset + len(line), number + 1
