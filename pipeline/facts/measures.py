"""What `validate` measures of every sample, by modality in `MEASURES`: in chunks, memory bounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.dataset import CHUNK, Dataset
from serving.inputs.spec import Kind

VALUES = 1 << 22  # values held at a time: 16 MB as float32
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Measure:
    """Values of every sample, (N,) float32: numbers with NaN where missing, or codes of `categories`, from 1.

    `own` says that it is a column of the data itself.
    """

    name: str
    values: np.ndarray
    kind: Kind = "number"
    categories: tuple[str, ...] = ()
    own: bool = False


def rows_at_once(dataset: Dataset) -> int:
    """How many rows to read at a time, so that memory depends on neither their number nor their size."""
    return min(CHUNK, max(1, VALUES // max(1, int(np.prod(dataset.spec.input_shape)))))


def of_images(dataset: Dataset) -> Iterator[Measure]:
    """Brightness and contrast of images (N, C, H, W), in grey levels, 0 to 255."""
    parts = []
    for rows in dataset.input_chunks(rows_at_once(dataset)):
        flat = rows.reshape(len(rows), -1)
        parts.append(np.stack([flat.mean(1, dtype=np.float32), flat.std(1, dtype=np.float32)]))
    brightness, contrast = np.concatenate(parts, axis=1)
    yield Measure("brightness", brightness)
    yield Measure("contrast", contrast)


def of_tables(dataset: Dataset) -> Iterator[Measure]:
    """Every column of a table, some at a time, and how many cells of a row are missing."""
    table, total = dataset.spec.table, len(dataset)
    assert table is not None
    fields = (*table.numbers, *table.categories)
    empty = np.zeros(total, np.float32)
    width = max(1, VALUES // max(total, 1))
    for left in range(0, len(fields), width):
        some = fields[left : left + width]
        columns = np.concatenate([rows[:, left : left + width].T for rows in dataset.input_chunks()], axis=1)
        for field, values in zip(some, columns, strict=True):
            empty += (values == 0) if field.kind == "category" else np.isnan(values)
            yield Measure(field.name, values, field.kind, field.categories, own=True)
    yield Measure("missing cells", empty)


def of_series(dataset: Dataset) -> Iterator[Measure]:
    """The length of each series in steps, and of each channel its mean, extremes and share of missing steps."""
    series = dataset.spec.series
    assert series is not None
    lengths, parts = dataset.inputs.lengths, []
    for rows in dataset.input_chunks():
        starts, there = rows.offsets[:-1], ~np.isnan(rows.values)
        counts = np.add.reduceat(there, starts, axis=0, dtype=np.float64)
        sums = np.add.reduceat(np.where(there, rows.values, 0), starts, axis=0, dtype=np.float64)
        mean = np.where(counts > 0, sums / counts.clip(1), np.nan)
        low, high = np.fmin.reduceat(rows.values, starts), np.fmax.reduceat(rows.values, starts)
        parts.append(np.stack([mean, low, high, 1 - counts / rows.lengths[:, None]]).astype(np.float32))
    yield Measure("length", lengths.astype(np.float32))
    found = np.concatenate(parts, axis=1)  # (4, N, C)
    for at, channel in enumerate(series.channels):
        for part, what in enumerate(SERIES):
            yield Measure(f"{channel} {what}", found[part, :, at].copy())


SERIES = ("mean", "lowest", "highest", "missing share")  # what is measured of each channel


def text_of(row: np.ndarray) -> str:
    """The text of its UTF-8 bytes (T,) uint8."""
    return row.tobytes().decode("utf-8", errors="replace")


def of_texts(dataset: Dataset) -> Iterator[Measure]:
    """Characters and words of each text, the share of its characters that are no ASCII, and unreadable ones."""
    found = []
    for rows in dataset.input_chunks():
        for at in range(len(rows)):
            text = text_of(rows[at])
            size = max(len(text), 1)
            beyond = size - len(text.encode("ascii", errors="ignore"))
            words = sum(1 for _ in WORD.finditer(text))
            found.append((len(text), words, beyond / size, text.count("\N{REPLACEMENT CHARACTER}")))
    values = np.array(found, np.float32).reshape(-1, 4)
    for at, name in enumerate(("characters", "words", "beyond ASCII", "damaged characters")):
        yield Measure(name, values[:, at].copy())


MEASURES: dict[str, Callable[[Dataset], Iterator[Measure]]] = {
    "image": of_images, "table": of_tables, "series": of_series, "text": of_texts,
}  # fmt: skip
