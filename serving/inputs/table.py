"""From CSV rows or JSON to the canonical row of a table: whole columns at once, be it one row or a million."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from serving.inputs.body import BadInput, csv_lines, is_json, parse_json
from serving.inputs.spec import DataSpec, TableField, TableInput

MISSING = {"", "na", "n/a", "nan", "null", "none", "nat", "?"}  # in lower case
TRUE, FALSE = {"true", "yes", "t", "y", "1", "1.0"}, {"false", "no", "f", "n", "0", "0.0"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400.0  # seconds
LARGEST = float(np.finfo(np.float32).max)
WHOLE = re.compile(r"[+-]?\d+\.0+")


def is_missing(value: Any) -> bool:
    """True for what stands for no value: None, NaN, an empty cell, `NA` and its like."""
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, str) and value.strip().lower() in MISSING


def number(value: Any) -> float:
    """A finite number of float32's range from a cell.

    Raises:
        ValueError: it is not one.
    """
    found = float(value)
    if not abs(found) <= LARGEST:
        raise ValueError("not finite in float32")
    return found


def boolean(value: Any) -> float:
    """0 or 1 from a cell that says so in one of the usual ways.

    Raises:
        ValueError: it does not.
    """
    word = str(value).strip().lower()
    if word in TRUE:
        return 1.0
    if word in FALSE:
        return 0.0
    raise ValueError("not a boolean")


def days(value: Any) -> float:
    """Days since 1970 from an ISO 8601 date or time, UTC where it names no zone.

    Raises:
        ValueError: it is not one.
    """
    if isinstance(value, np.datetime64):
        return float(value.astype("datetime64[s]").astype(np.int64)) / DAY
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - EPOCH).total_seconds() / DAY


def category(value: Any) -> str:
    """The name of a category: text without surrounding spaces; 3 and 3.0 are both `3`, true is `true`."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).strip()
    return text.partition(".")[0] if WHOLE.fullmatch(text) else text


PARSERS: dict[str, Callable[[Any], float]] = {"number": number, "boolean": boolean, "date": days}
EXPECTED = {"number": "a finite number", "boolean": "true or false", "date": "an ISO 8601 date"}


def encode(field: TableField, values: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, list[int]]:
    """A field's values (n,) as float32 (n,), NaN where missing, and the rows that are not of its kind."""
    if field.kind == "category":
        return _codes(field, values), []
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb" and field.kind != "date":
        found = values.astype(np.float64)
        with np.errstate(over="ignore"):  # what float32 cannot hold is told below
            rows = found.astype(np.float32)
        return rows, np.flatnonzero(np.abs(found) > LARGEST).tolist()
    parse, wrong = PARSERS[field.kind], []
    out = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if not is_missing(value):
            try:
                out[row] = parse(value)
            except (ValueError, TypeError, OverflowError):
                wrong.append(row)
    return out.astype(np.float32), wrong


def _codes(field: TableField, values: Sequence[Any] | np.ndarray) -> np.ndarray:
    known = {name: code for code, name in enumerate(field.categories, 1)}
    codes = (0 if is_missing(value) else known.get(category(value), 0) for value in values)
    return np.fromiter(codes, np.float32, len(values))


def encode_rows(
    columns: Mapping[str, Sequence[Any] | np.ndarray], table: TableInput
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Columns of n values each as rows (n, F + G) float32, and what is wrong: row and message."""
    parts, problems = [], []
    for field in (*table.numbers, *table.categories):
        values = columns[field.name]
        part, wrong = encode(field, values)
        parts.append(part)
        problems += [
            (row, f"column '{field.name}' holds {values[row]!r}; expected {EXPECTED[field.kind]} or nothing")
            for row in wrong
        ]
    return np.stack(parts, axis=1), problems


def _parse_csv(body: bytes | dict[str, Any], table: TableInput) -> dict[str, Any]:
    """A header line and one row, or a row alone with every column in order."""
    assert not isinstance(body, dict)
    names = [field.name for field in table.fields]
    rows = csv_lines(body)
    if not rows or len(rows) > 2:
        raise BadInput(
            f"expected one CSV row, with or without a header line above it; found {len(rows)} lines"
        )
    header, row = rows if len(rows) == 2 else (names, rows[0])
    header = [name.strip() for name in header]
    if len(row) != len(header):
        raise BadInput(f"the row has {len(row)} cells; expected {len(header)}: {', '.join(header)}")
    return dict(zip(header, row, strict=True))


def decode(body: bytes | dict[str, Any], spec: DataSpec) -> np.ndarray:
    """One request body, a JSON object of columns or a CSV row, as a row (F + G,) float32.

    Raises:
        BadInput: a column is missing or not known, or a value is not of its kind; categories that were never
            seen are no error, the model answers as for a missing one.
    """
    table = spec.table
    assert table is not None
    content = parse_json(body) if is_json(body) else _parse_csv(body, table)
    if not isinstance(content, dict):
        raise BadInput(f"expected a JSON object of columns; found {type(content).__name__}")
    names = {field.name for field in table.fields}
    if unknown := sorted(str(name) for name in content.keys() - names):
        raise BadInput(f"unknown columns {unknown}; expected {sorted(names)}")
    if missing := sorted(names - content.keys()):
        raise BadInput(f"missing columns {missing}; give null where a value is not known")
    for name, value in content.items():
        if isinstance(value, dict | list):
            raise BadInput(f"column '{name}' holds a {type(value).__name__}; expected a single value")
    rows, problems = encode_rows({name: [value] for name, value in content.items()}, table)
    if problems:
        raise BadInput("; ".join(message for _, message in problems))
    row: np.ndarray = rows[0]
    return row
