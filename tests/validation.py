"""What the tests of `validate` share: data of every modality, clean until a fault is planted, and its findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.checks.findings import Facts, Finding
from pipeline.core.dataset import Dataset, DatasetWriter, columns_of, identities, image_columns
from pipeline.limits import Validate
from pipeline.validate import examine
from serving.inputs.ragged import Ragged
from serving.inputs.spec import (
    Column,
    DataSpec,
    ImageInput,
    Modality,
    SeriesInput,
    TableField,
    TableInput,
    TextInput,
)

SIDE = 24
Plant = Callable[..., object]


def save(
    folder: Path,
    modality: Modality,
    column: Column,
    rows: np.ndarray | Ragged,
    target: np.ndarray,
    **spec: object,
) -> Dataset:
    """A data set folder with a manifest; a target of whole numbers is a class, others are regressed on."""
    classified = target.dtype.kind in "iu"
    learnt: dict[str, object]
    if classified:
        learnt = {"task": "classification", "classes": ("a", "b")} | spec
    else:
        target = target.reshape(len(target), -1)
        learnt = {"task": "regression", "targets": tuple(f"y{at}" for at in range(target.shape[1]))} | spec
    columns = columns_of(column, 0 if classified else target.shape[1])
    made = DataSpec.model_validate({"modality": modality, "source": "test", "columns": columns} | learnt)
    with DatasetWriter(folder, made) as writer:
        values = target.astype(np.int64) if classified else target.astype(np.float32)
        writer.append({column.name: rows, made.target.name: values, "id": identities(rows)})
    lines = [f"{row},file{row},x,0" for row in range(len(rows))]
    (folder / "manifest.csv").write_text("\n".join(["row,origin,target,sha256", *lines]) + "\n")
    return Dataset(folder)


def examined(
    data: Dataset, kept: Path | None = None, name: str = "test", **limits: object
) -> tuple[dict[str, Finding], Facts]:
    """What is found in a data set, by check, and its facts."""
    report, facts = examine(data, Validate.model_validate(limits), name, kept or data.folder / "none.json")
    assert facts is not None
    return {finding.check: finding for finding in report.findings}, facts


def findings(data: Dataset, **limits: object) -> dict[str, Finding]:
    """What is found in a data set, by check."""
    return examined(data, **limits)[0]


# Images


def drawings(count: int, seed: int = 0) -> np.ndarray:
    """Images (N, 1, 24, 24) of random blocks, no two of them alike."""
    blocks = np.random.default_rng(seed).integers(60, 200, (count, 1, SIDE // 4, SIDE // 4), dtype=np.uint8)
    return blocks.repeat(4, axis=2).repeat(4, axis=3)


def clean_images(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    return drawings(count), np.arange(count) % 2


def image_data(
    folder: Path, rows: np.ndarray, labels: np.ndarray, classes: Sequence[str] = ("a", "b")
) -> Dataset:
    channels, height, width = rows.shape[1:]
    size = ImageInput.model_validate({"channels": channels, "height": height, "width": width})
    column = image_columns(rows.shape[1:])[0]
    return save(folder, "image", column, rows, labels.astype(np.int64), classes=tuple(classes), image=size)


def brighter(image: np.ndarray) -> np.ndarray:
    return image + 30


def fainter(image: np.ndarray) -> np.ndarray:
    return (image * 0.7).astype(np.uint8)


def copied(images: np.ndarray, labels: np.ndarray) -> None:
    images[7] = images[5]


# Tables

FIELDS = (
    TableField(name="age", kind="number"),
    TableField(name="income", kind="number"),
    TableField(name="member", kind="boolean"),
    TableField(name="since", kind="date"),
    TableField(name="town", kind="category", categories=("Bern", "Oslo", "Rome")),
)


def clean_table(count: int = 400, seed: int = 0) -> np.ndarray:
    """Rows (N, 5): age, income, member, since, town, some values missing."""
    draw = np.random.default_rng(seed)
    rows = np.stack([
        draw.integers(18, 90, count), draw.lognormal(10, 0.4, count), draw.integers(0, 2, count),
        draw.integers(15_000, 19_000, count), draw.integers(1, 4, count),
    ], axis=1).astype(np.float32)  # fmt: skip
    rows[draw.random(count) < 0.05, 1] = np.nan
    return rows


def labels_of(count: int, seed: int = 0) -> np.ndarray:
    """Random classes (N,) int64, 0 and 1."""
    return np.random.default_rng([seed, 1]).integers(0, 2, count)


def table_data(
    folder: Path, rows: np.ndarray, target: np.ndarray, fields: Sequence[TableField] = FIELDS, **spec: object
) -> Dataset:
    numbers = [field for field in fields if field.kind != "category"]
    assert list(fields[: len(numbers)]) == numbers, "numbers stand first here"
    column = Column(name="row", role="input", dtype="<f4", shape=(len(fields),))
    return save(folder, "table", column, rows, target, table=TableInput(fields=tuple(fields)), **spec)


# Series


def clean_series(count: int = 60, seed: int = 0) -> list[np.ndarray]:
    """Random walks (T, 2) of 40 to 60 steps, no two of them alike."""
    draw = np.random.default_rng(seed)
    return [
        draw.standard_normal((draw.integers(40, 61), 2)).cumsum(axis=0).astype(np.float32)
        for _ in range(count)
    ]


def series_data(folder: Path, rows: Sequence[np.ndarray], target: np.ndarray, **spec: object) -> Dataset:
    channels = rows[0].shape[1]
    names = tuple("xyzuvw"[:channels])
    column = Column(name="series", role="input", dtype="<f4", shape=(channels,), ragged=True)
    ragged = Ragged.of(rows, "<f4", (channels,))
    return save(folder, "series", column, ragged, target, series=SeriesInput(channels=names), **spec)


# Texts

SYLLABLES = ("ba", "lo", "ki", "mer", "tan", "su", "vel", "dor", "pi", "gra", "nel", "os", "hu", "rim")


def clean_texts(count: int = 60, seed: int = 0) -> list[str]:
    """Texts of 30 to 60 made-up words, no two of them alike."""
    draw = np.random.default_rng(seed)
    return [
        " ".join("".join(draw.choice(SYLLABLES, draw.integers(1, 4))) for _ in range(draw.integers(30, 61)))
        for _ in range(count)
    ]


def text_data(folder: Path, rows: Sequence[str], target: np.ndarray, **spec: object) -> Dataset:
    column = Column(name="text", role="input", dtype="|u1", ragged=True)
    ragged = Ragged.of([np.frombuffer(text.encode(), np.uint8) for text in rows], "|u1")
    return save(folder, "text", column, ragged, target, text=TextInput(), **spec)
