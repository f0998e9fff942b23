"""Long tables of series, CSV or Parquet: a row a step, one file at a time, as columns of Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.params import UserError
from pipeline.sources.files import lines
from pipeline.sources.samples import Sample
from serving.inputs.table import MISSING

NOTHING = sorted({form for word in MISSING for form in (word, word.upper(), word.title())} | {"NaN"})


@dataclass(frozen=True)
class Layout:
    """The parts that the columns of a long table play; `time` may be empty."""

    series: str
    time: str
    channels: tuple[str, ...]
    targets: tuple[str, ...]
    splitting: tuple[tuple[str, str], ...] = ()  # of the split, and the column that says it


def load(path: Path, names: list[str], wanted: Sequence[str], numbers: Sequence[str] = ()) -> Any:
    """Some columns of a file that has `names` as an Arrow table; `numbers` as float64, null where missing.

    Raises:
        UserError: it cannot be read, or holds what is no number where one should be.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if path.suffix.lower() == ".parquet":
            table = parquet.read_table(path, columns=list(wanted))
            for name in numbers:
                at = table.schema.get_field_index(name)
                table = table.set_column(at, name, table[name].cast(pa.float64()))
            return table
        types = {name: pa.float64() if name in numbers else pa.string() for name in wanted}
        return csv.read_csv(
            path,
            csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1),
            csv.ParseOptions(),
            csv.ConvertOptions(
                column_types=types,
                include_columns=list(wanted),
                null_values=NOTHING,
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        if path.suffix.lower() == ".csv":
            for _ in lines(path):  # tells the line where it is the encoding
                pass
        raise UserError(f"{path.name}: {_told(str(error), names)}") from None


def _told(message: str, names: list[str]) -> str:
    """Arrow's message with our names for the column and the line."""
    import re

    found = re.match(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to double: (.*)", message)
    if not found:
        return message.replace("CSV parse error: Row #", "line ")
    column, row, why = found.groups()
    where = f"line {row}, " if row else ""
    return f"{where}column '{names[int(column)]}': {why}; expected a number or nothing (data.drop leaves columns out)"


def coded(column: Any) -> tuple[np.ndarray, list[Any]]:
    """A column (R,) as codes (R,) int64 by first appearance, and the values that they stand for."""
    found = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return found.indices.to_numpy().astype(np.int64), found.dictionary.to_pylist()


def times_of(column: Any, file: str) -> np.ndarray:
    """A column of times (R,) as numbers that sort and compare as they do.

    Raises:
        UserError: they are neither all numbers nor all ISO 8601 times, or one is missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    nothing = pc.is_in(column, pa.array(NOTHING)) if pa.types.is_string(column.type) else pc.is_null(column)
    if len(rows := np.flatnonzero(nothing.to_numpy())):
        raise UserError(f"{file}, line {rows[0] + 2}: the time is missing")
    kinds = (pa.float64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"))
    for kind in kinds if pa.types.is_string(column.type) else kinds[:1]:
        try:
            cast = column.cast(kind)
        except pa.ArrowInvalid:
            continue
        return np.asarray(
            cast.cast(pa.int64()).to_numpy() if pa.types.is_timestamp(kind) else cast.to_numpy()
        )
    raise UserError(f"{file}: the times are neither all numbers nor all ISO 8601, such as {column[0]}")


def survey(path: Path, names: list[str], layout: Layout) -> tuple[list[str], list[list[Any]]]:
    """The series of a file by first appearance, and the different values of each target."""
    table = load(path, names, (layout.series, *layout.targets))
    series = [str(name) for name in coded(table[layout.series])[1]]
    return series, [coded(table[name])[1] for name in layout.targets]


def samples(path: Path, names: list[str], layout: Layout) -> Iterator[Sample]:
    """The series of a file, by first appearance, the steps of each in the order of time."""
    whole = tuple(dict.fromkeys((*layout.targets, *(column for _, column in layout.splitting))))
    wanted = (layout.series, *((layout.time,) if layout.time else ()), *layout.channels, *whole)
    table = load(path, names, wanted, layout.channels)
    codes, series = coded(table[layout.series])
    times = times_of(table[layout.time], path.name) if layout.time else np.arange(len(codes))
    constant = {name: coded(table[name]) for name in whole}
    channels = [table[name].to_numpy() for name in layout.channels]
    del table
    order = np.lexsort((times, codes))
    ends = np.bincount(codes, minlength=len(series)).cumsum()
    for name, rows in zip(series, np.split(order, ends[:-1]), strict=True):
        firsts = {column: values[kinds[rows[0]]] for column, (kinds, values) in constant.items()}
        yield Sample(
            f"{path.name}:{name}",
            np.stack([channel[rows] for channel in channels], axis=1).astype(np.float64),
            tuple(firsts[column] for column in layout.targets),
            {part: firsts[column] for part, column in layout.splitting},
            problem_of(name, rows, times[rows], constant),
        )


def problem_of(
    name: Any, rows: np.ndarray, times: np.ndarray, constant: dict[str, tuple[np.ndarray, list[Any]]]
) -> str:
    """Why the series of some rows, sorted by time, cannot be used; empty where it can."""
    if name is None or not str(name).strip():
        return f"line {rows.min() + 2} names no series"
    if len(twice := np.flatnonzero(np.diff(times) == 0)):
        one, other = sorted(rows[twice[0] : twice[0] + 2] + 2)
        return f"lines {one} and {other} have the same time"
    for column, (kinds, values) in constant.items():
        if len(changes := np.flatnonzero(np.diff(kinds[np.sort(rows)]))):
            at = np.sort(rows)[changes[0] : changes[0] + 2]
            before, after = (values[kind] for kind in kinds[at])
            return (
                f"'{column}' is {before!r} on line {at[0] + 2} and {after!r} on line {at[1] + 2}; "
                "expected one value for a whole series"
            )
    return ""
