"""Small data sets that are no pictures: rows of a table, series of unequal length, texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.dataset import Dataset, DatasetWriter, columns_of, identities
from serving.inputs.ragged import Ragged
from serving.inputs.spec import Column, DataSpec, SeriesInput, TableField, TableInput, TextInput

TABLE = TableInput(
    fields=(
        TableField(name="kind", kind="category", categories=("a", "b, c", 'said "d"', "é\nf", "7")),
        TableField(name="size, m", kind="number"),
        TableField(name="old", kind="boolean"),
        TableField(name="weight", kind="number"),
        TableField(name="since", kind="date"),
        TableField(name="colour", kind="category", categories=("red",)),
    )
)
CHANNELS = ("left", "right")
TEXTS = (
    "fine",
    "7",
    "naïve café ☕",
    'a\nline, and "quotes"',
    "{not JSON",
    "[deleted]",
    "\ufeffmarked",
    "nan",
    "🎈" * 9,
)


def table_spec(classes: Sequence[str] = (), targets: Sequence[str] = (), *more: Column) -> DataSpec:
    """Rows (6,) of `TABLE`, with classes or with the targets of a regression."""
    column = Column(name="row", role="input", dtype="<f4", shape=(len(TABLE.fields),))
    return DataSpec(
        modality="table", task="regression" if targets else "classification", source="test", table=TABLE,
        columns=columns_of(column, len(targets), *more), classes=tuple(classes), targets=tuple(targets),
    )  # fmt: skip


def series_spec(classes: Sequence[str] = (), targets: Sequence[str] = ()) -> DataSpec:
    """Series (T, 2), with classes or with the targets of a regression."""
    column = Column(name="series", role="input", dtype="<f4", shape=(len(CHANNELS),), ragged=True)
    return DataSpec(
        modality="series", task="regression" if targets else "classification", source="test",
        columns=columns_of(column, len(targets)), classes=tuple(classes), targets=tuple(targets),
        series=SeriesInput(channels=CHANNELS),
    )  # fmt: skip


def text_spec(classes: Sequence[str]) -> DataSpec:
    """Texts as `ingest` keeps them, UTF-8 bytes (T,)."""
    column = Column(name="text", role="input", dtype="|u1", ragged=True)
    return DataSpec(
        modality="text", task="classification", source="test", columns=columns_of(column, 0),
        classes=tuple(classes), text=TextInput(),
    )  # fmt: skip


def table_rows(count: int, seed: int) -> np.ndarray:
    """Rows (N, 6) float32 of `TABLE`: two numbers, a boolean and a date with gaps, then two category codes."""
    draw = np.random.default_rng(seed)
    numbers = draw.normal(size=(count, 2)) * 10.0 ** draw.integers(-30, 30, (count, 2))
    days = draw.integers(-20_000, 30_000, count) + draw.integers(0, 86_400, count) / 86_400
    codes = np.stack([draw.integers(0, 6, count), draw.integers(0, 2, count)], axis=1)
    rows = np.column_stack([numbers[:, 0], draw.integers(0, 2, count), numbers[:, 1], days, codes])
    rows[:, :4][draw.random((count, 4)) < 0.2] = np.nan
    return rows.astype(np.float32)


def series_rows(count: int, seed: int, shortest: int = 2, longest: int = 9) -> Ragged:
    """Series (T, 2) of 2 to 8 steps, with values missing among them and none in the last step."""
    draw = np.random.default_rng(seed)
    rows = []
    for size in draw.integers(shortest, longest, count):
        steps = draw.normal(size=(size, len(CHANNELS)))
        steps[:-1][draw.random((size - 1, len(CHANNELS))) < 0.2] = np.nan
        rows.append(steps.astype(np.float32))
    return Ragged.of(rows, "<f4", (len(CHANNELS),))


def text_rows(texts: Sequence[str]) -> Ragged:
    """Texts as UTF-8 bytes (T,)."""
    return Ragged.of([np.frombuffer(text.encode(), np.uint8) for text in texts], "|u1")


def write(folder: Path, spec: DataSpec, rows: Any, targets: np.ndarray, **more: np.ndarray) -> Dataset:
    """A data set folder of inputs, targets and further columns."""
    with DatasetWriter(folder, spec) as writer:
        writer.append({spec.input.name: rows, spec.target.name: targets, "id": identities(rows), **more})
    return Dataset(folder)
