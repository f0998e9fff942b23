"""Long tables of series, CSV or Parquet: a row a step, one file at a time, as columns of Arrow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.params import UserError
from pipeline.sources.samples import Sample
from pipeline.sources.tablefiles import CsvFile, open_file, plain
from serving.inputs.body import BadInput
from serving.inputs.table import MISSING, days, is_missing

NOTHING = sorted({form for word in MISSING for form in (word, word.upper(), word.title())} | {"NaN"})
READ = 4096  # rows read at a time where an error is looked for


@dataclass(frozen=True)
class Layout:
    """The parts that the columns of a long table play; `time` may be empty."""

    series: str
    time: str
    channels: tuple[str, ...]
    targets: tuple[str, ...]
    splitting: tuple[tuple[str, str], ...] = ()  # of the split, and the column that says it


class LongFile:
    """One file: read by Arrow, and, where something is wrong, once more row by row, which tells the place.

    Raises:
        UserError: it has no columns with names of their own, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name, self._rows = path, path.name, open_file(path)
        self.names = self._rows.names

    def load(self, wanted: Sequence[str], numbers: Sequence[str] = ()) -> Any:
        """Some columns as an Arrow table; `numbers` as float64, null where missing.

        Raises:
            UserError: the file is damaged, or holds what is no number where one should be.
        """
        import pyarrow as pa

        try:
            return self._load(list(wanted), numbers)
        except (pa.ArrowException, OSError) as error:
            raise self._wrong(numbers, plain(error)) from None

    def _load(self, wanted: list[str], numbers: Sequence[str]) -> Any:
        import pyarrow as pa
        from pyarrow import csv, parquet

        if not isinstance(self._rows, CsvFile):
            table = parquet.read_table(self.path, columns=wanted)
            return pa.table({name: _column(table[name], name in numbers) for name in wanted})
        types = {name: pa.float64() if name in numbers else pa.string() for name in wanted}
        return csv.read_csv(
            self.path,
            csv.ReadOptions(use_threads=False, column_names=self.names, skip_rows=self._rows.begins),
            csv.ParseOptions(newlines_in_values=True),
            csv.ConvertOptions(
                column_types=types,
                include_columns=wanted,
                null_values=NOTHING,
                strings_can_be_null=False,
            ),
        )

    def _wrong(self, numbers: Sequence[str], message: str) -> UserError:
        """The first row that cannot be read, or holds no number where one should be; else Arrow's message."""
        bad: list[str] = []
        for batch in self._rows.batches(READ, bad, numbers):
            if bad:
                break
            for name in numbers:
                for origin, cell in zip(batch.origins, batch.columns[name], strict=True):
                    if not _is_number(cell):
                        return UserError(
                            f"{origin}: column '{name}' holds {cell!r}; expected a number or nothing "
                            "(data.drop leaves columns out)"
                        )
        return UserError(bad[0] if bad else f"{self.name}: {message}")

    @cached_property
    def _places(self) -> list[str]:
        """Where each row stands."""
        first = self.names[-1:]
        return [origin for batch in self._rows.batches(READ, [], first) for origin in batch.origins]

    def place(self, row: int | np.integer[Any]) -> str:
        """Where a row stands, as `file:line`, or `file:row` of Parquet."""
        return self._places[int(row)]

    def lines(self, *rows: int | np.integer[Any]) -> str:
        """Where some rows stand in this file."""
        word = "line" if isinstance(self._rows, CsvFile) else "row"
        found = sorted(int(self.place(row).rpartition(":")[2]) for row in rows)
        return f"{word}{'s' if len(found) > 1 else ''} {' and '.join(map(str, found))}"


def _is_number(cell: Any) -> bool:
    try:
        return is_missing(cell) or not math.isnan(float(cell))
    except (ValueError, TypeError):
        return False


def _column(column: Any, is_number: bool) -> Any:
    """A column of Parquet without its dictionary, as float64 where it is a number."""
    import pyarrow as pa

    kind = pa.float64() if is_number else getattr(column.type, "value_type", column.type)
    return column if column.type == kind else column.cast(kind)


def coded(column: Any) -> tuple[np.ndarray, list[Any]]:
    """A column (R,) as codes (R,) int64 by first appearance, and the values that they stand for."""
    found = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return found.indices.to_numpy().astype(np.int64), found.dictionary.to_pylist()


def times_of(column: Any, file: LongFile) -> np.ndarray:
    """A column of times (R,) as numbers that sort and compare as they do.

    Raises:
        UserError: they are neither all numbers nor all ISO 8601 times, or one is missing or infinite.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    nothing = pc.is_in(column, pa.array(NOTHING)) if pa.types.is_string(column.type) else pc.is_null(column)
    if len(rows := np.flatnonzero(nothing.to_numpy())):
        raise UserError(f"{file.place(rows[0])}: the time is missing")
    for kind in (pa.float64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            cast = column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        found = np.asarray(
            cast.cast(pa.int64()).to_numpy() if pa.types.is_timestamp(kind) else cast.to_numpy()
        )
        if len(rows := np.flatnonzero(~np.isfinite(found))):
            raise UserError(f"{file.place(rows[0])}: the time is {found[rows[0]]}; expected a finite number")
        return found
    raise _odd_time(column.to_pylist(), file)


def _odd_time(values: list[Any], file: LongFile) -> UserError:
    """The first time that is not of the kind of the first."""
    first = _kind_of(values[0])
    at = next((at for at, value in enumerate(values) if not first or _kind_of(value) != first), 0)
    return UserError(
        f"{file.place(at)}: the time is {values[at]!r}; the times are neither all numbers nor all ISO 8601 of one "
        f"kind, as the first, {values[0]!r}, is"
    )


def _kind_of(value: Any) -> str:
    """What a time is written as: a number, or ISO 8601 with or without a zone; empty where it is none."""
    if isinstance(value, int | float):
        return "number"
    for kind, read in (("number", float), ("time", days)):
        try:
            read(value)
        except (ValueError, TypeError):
            continue
        zoned = kind == "time" and str(value).strip()[10:].rstrip("Zz").count("+") + str(value)[10:].count(
            "Z"
        )
        return f"{kind} with a zone" if zoned else kind
    return ""


def survey(file: LongFile, layout: Layout) -> tuple[list[str], list[list[Any]]]:
    """The series of a file by first appearance, and the different values of each target."""
    table = file.load((layout.series, *layout.targets))
    series = [str(name) for name in coded(table[layout.series])[1]]
    return series, [coded(table[name])[1] for name in layout.targets]


def samples(file: LongFile, layout: Layout) -> Iterator[Sample]:
    """The series of a file, by first appearance, the steps of each in the order of time."""
    whole = tuple(dict.fromkeys((*layout.targets, *(column for _, column in layout.splitting))))
    wanted = (layout.series, *((layout.time,) if layout.time else ()), *layout.channels, *whole)
    table = file.load(wanted, layout.channels)
    codes, series = coded(table[layout.series])
    times = times_of(table[layout.time], file) if layout.time else np.arange(len(codes))
    constant = {name: coded(table[name]) for name in whole}
    channels = [table[name].to_numpy() for name in layout.channels]
    del table
    order = np.lexsort((times, codes))
    ends = np.bincount(codes, minlength=len(series)).cumsum()
    for name, rows in zip(series, np.split(order, ends[:-1]), strict=True):
        firsts = {column: values[kinds[rows[0]]] for column, (kinds, values) in constant.items()}
        problem = ""
        try:
            check_name(name, rows, file)
            check_times(rows, times, file)
            check_constant(rows, constant, file)
        except BadInput as error:
            problem = str(error)
        yield Sample(
            f"{file.name}:{name}",
            np.stack([channel[rows] for channel in channels], axis=1).astype(np.float64),
            tuple(firsts[column] for column in layout.targets),
            {part: firsts[column] for part, column in layout.splitting},
            problem,
        )


def check_name(name: Any, rows: np.ndarray, file: LongFile) -> None:
    """Refuse rows that name no series."""
    if name is None or not str(name).strip():
        raise BadInput(f"{file.lines(rows.min())} names no series")


def check_times(rows: np.ndarray, times: np.ndarray, file: LongFile) -> None:
    """Refuse a series, of rows sorted by time, with two steps of one time."""
    if len(twice := np.flatnonzero(np.diff(times[rows]) == 0)):
        told = file.lines(*rows[twice[0] : twice[0] + 2])
        raise BadInput(
            f"{told} have the same time; expected one step at a time, or a column that tells series apart"
        )


def check_constant(
    rows: np.ndarray, constant: dict[str, tuple[np.ndarray, list[Any]]], file: LongFile
) -> None:
    """Refuse a series that is given two targets, groups or splits."""
    for column, (kinds, values) in constant.items():
        if len(changes := np.flatnonzero(np.diff(kinds[np.sort(rows)]))):
            at = np.sort(rows)[changes[0] : changes[0] + 2]
            before, after = (values[kind] for kind in kinds[at])
            raise BadInput(
                f"'{column}' is {before!r} on {file.lines(at[0])} and {after!r} on {file.lines(at[1])}; "
                "expected one value for a whole series"
            )
