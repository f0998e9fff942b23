"""Samples as a page shows them: pictures, lines of series, excerpts of texts, rows of tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.cells import cell
from pipeline.checks.findings import Facts
from pipeline.core.dataset import Dataset
from pipeline.duplicates.images import pooled
from pipeline.facts.measures import rows_at_once, text_of
from pipeline.pages import TILE, Picture, sheet

PICTURED = 20  # classes shown with samples; every class is counted
SAMPLES = {"image": 12, "series": 3, "text": 3, "table": 3}  # of a class
STEPS = 200  # points of a line on a page at most
CHANNELS = 6  # channels drawn at most
EXCERPT = 240  # characters
WIDTH, HEIGHT = 210, 64  # of a line, in CSS pixels


@dataclass(frozen=True)
class Lines:
    """A series as SVG: a path each channel in `paths`, with the extremes of its values."""

    paths: tuple[str, ...]
    low: float
    high: float
    steps: int
    caption: str = ""


@dataclass(frozen=True)
class Quote:
    """A text or a row in words."""

    words: str
    caption: str = ""


Shown = Picture | Lines | Quote


def lines(series: np.ndarray, caption: str = "") -> Lines:
    """A series (T, C) drawn, one scale for all its channels; a missing value leaves a gap."""
    at = np.unique(np.linspace(0, len(series) - 1, min(STEPS, len(series))).astype(int))
    drawn = series[at, :CHANNELS].astype(np.float64)
    there = drawn[~np.isnan(drawn)]
    low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 0.0)
    across = at / max(len(series) - 1, 1) * (WIDTH - 4) + 2
    down = HEIGHT / 2 + 0 * drawn if high == low else 2 + (high - drawn) / (high - low) * (HEIGHT - 4)
    paths = []
    for channel in down.T:
        pieces, pen = [], "M"
        for x, y in zip(across, channel, strict=True):
            if np.isnan(y):
                pen = "M"
                continue
            pieces.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        paths.append("".join(pieces))
    return Lines(tuple(paths), low, high, len(series), caption)


def excerpt(text: str, most: int = EXCERPT) -> str:
    """The beginning of a text, on one line."""
    plain = " ".join(text.split())
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def sample(dataset: Dataset, row: int, caption: str = "") -> Shown:
    """One sample of any modality but images, for which there is `sheet`."""
    one, spec = dataset.inputs[row], dataset.spec
    if spec.modality == "series":
        return lines(one, caption)
    if spec.modality == "text":
        return Quote(excerpt(text_of(one)), caption)
    assert spec.table is not None
    fields = (*spec.table.numbers, *spec.table.categories)
    words = ", ".join(f"{field.name} {cell(field, value)}" for field, value in zip(fields, one, strict=True))
    return Quote(excerpt(words), caption)


def class_means(dataset: Dataset, labels: np.ndarray) -> np.ndarray:
    """The mean image of each of the first classes, made small: (K, C, h, w) uint8."""
    name = dataset.spec.input.name
    sums, start = np.zeros((0,)), 0
    for chunk in dataset.chunks([name], rows_at_once(dataset)):
        small = pooled(chunk[name], TILE)
        sums = sums if sums.size else np.zeros((PICTURED, *small.shape[1:]))
        part = labels[start : start + len(small)]
        for label in np.unique(part[part < PICTURED]):
            sums[label] += small[part == label].sum(axis=0, dtype=np.float64)
        start += len(small)
    counts = np.bincount(labels[labels < PICTURED], minlength=PICTURED).clip(1)
    means: np.ndarray = (sums / counts[:, None, None, None]).round().astype(np.uint8)
    return means


def spread(rows: np.ndarray, modality: str) -> np.ndarray:
    """Some of the rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(SAMPLES[modality], len(rows))).astype(int)]


def gallery(dataset: Dataset, facts: Facts) -> Iterator[tuple[str, int, list[Shown]]]:
    """Name, number and some samples of each of the first classes that has any, or of parts of a regression.

    Of images the first is the mean of the class, and the others are one picture. The parts of a regression are the
    lowest, the middle and the highest third of its first target.
    """
    spec, modality = dataset.spec, dataset.spec.modality
    if modality == "image" and spec.classes:
        means = class_means(dataset, facts.labels)
    for at, (name, rows) in enumerate(parts(facts)):
        some = spread(rows, modality)
        if modality == "image":
            pictures: list[Shown] = [sheet(dataset.inputs[some], len(some), f"samples of {name}")]
            if spec.classes:
                pictures.insert(0, sheet(means[facts.labels[rows[0]]][None], 1, f"mean of {name}"))
            yield name, len(rows), pictures
        else:
            yield name, len(rows), [sample(dataset, int(row)) for row in some]
        if at + 1 == PICTURED:
            return


def parts(facts: Facts) -> Iterator[tuple[str, np.ndarray]]:
    """Name and rows of each class that has any, or of the thirds of a regression's first target."""
    if facts.spec.classes:
        for label, name in enumerate(facts.spec.classes[:PICTURED]):
            if len(rows := np.flatnonzero(facts.labels == label)):
                yield name, rows
        return
    order = np.argsort(facts.targets[:, 0], kind="stable")
    for word, rows in zip(("low", "middle", "high"), np.array_split(order, 3), strict=True):
        if len(rows):
            low, high = facts.targets[rows[0], 0], facts.targets[rows[-1], 0]
            yield f"{word} {facts.spec.targets[0]}, {low:g} to {high:g}", rows


def examples(rows: tuple[int, ...], said: list[str], note: str, dataset: Dataset) -> Iterator[Shown]:
    """The rows of one example with what is `said` of each: images side by side, others one by one."""
    if dataset.spec.modality == "image":
        yield sheet(dataset.inputs[list(rows)], len(rows), "\n".join([*said, note] if note else said))
        return
    for row, caption in zip(rows, said, strict=True):
        yield sample(dataset, row, f"{caption}, {note}" if note else caption)
