"""Canonical samples as the raw requests that a client could have sent for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.dataset import Dataset
from serving.inputs.generation import SEEDS
from serving.inputs.image import encode_png
from serving.inputs.spec import DataSpec, TableField
from serving.inputs.text import is_plain

Body = tuple[bytes, str]  # and its content type
JSON = "application/json"
DAY = 86_400  # seconds


def image_body(image: np.ndarray, number: int, spec: DataSpec) -> Body:
    """PNG, and every fourth JSON."""
    del spec
    if number % 4:
        return encode_png(image), "image/png"
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    return json.dumps({"pixels": pixels.tolist()}).encode(), JSON


def _cell(field: TableField, value: float) -> Any:
    if np.isnan(value):
        return None
    if field.kind == "category":
        return field.categories[int(value) - 1] if value else None
    if field.kind == "boolean":
        return bool(value)
    if field.kind == "date":
        moment = np.datetime64(0, "us") + np.timedelta64(round(float(value) * DAY * 1e6), "us")
        return f"{moment}+00:00"
    return float(value)


def table_body(row: np.ndarray, number: int, spec: DataSpec) -> Body:
    """JSON, and every fourth CSV."""
    assert spec.table is not None
    fields = (*spec.table.numbers, *spec.table.categories)
    cells = {field.name: _cell(field, float(value)) for field, value in zip(fields, row, strict=True)}
    if number % 4:
        return json.dumps(cells).encode(), JSON
    import csv
    import io

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([list(cells), ["" if cell is None else cell for cell in cells.values()]])
    return text.getvalue().encode(), "text/csv"


def series_body(steps: np.ndarray, number: int, spec: DataSpec) -> Body:
    """JSON."""
    del number, spec
    values = [[None if np.isnan(value) else float(value) for value in step] for step in steps]
    return json.dumps({"series": values}).encode(), JSON


def text_body(text: np.ndarray, number: int, spec: DataSpec) -> Body:
    """Plain UTF-8, and every fourth JSON, as is what a server would not take for plain text."""
    del spec
    raw = text.tobytes()
    plain = number % 4 and is_plain(raw)
    return (raw, "text/plain") if plain else (json.dumps({"text": raw.decode()}).encode(), JSON)


BODIES: dict[str, Callable[[np.ndarray, int, DataSpec], Body]] = {
    "image": image_body, "table": table_body, "series": series_body, "text": text_body,
}  # fmt: skip


def generation_body(label: int, seed: int, spec: DataSpec) -> Body:
    """JSON that asks for an image of a class."""
    return json.dumps({"label": spec.classes[label], "seed": seed}).encode(), JSON


def requests_for(test: Dataset, ingest: Path, count: int) -> Iterator[Body]:
    """Bodies of the first test samples, or for images of their classes.

    Texts, of which the test holds tokens, are looked up where they came in.
    """
    spec = test.spec
    encode = BODIES[spec.modality]
    count = min(count, len(test))
    if spec.task == "generation":
        yield from (generation_body(int(test.targets[at]), at % SEEDS, spec) for at in range(count))
        return
    if spec.modality != "text":
        yield from (encode(test.inputs[at], at, spec) for at in range(count))
        return
    raw = Dataset(ingest)
    place = {bytes(identity): row for row, identity in enumerate(np.array(raw.column("id")))}
    for at in range(count):
        yield encode(raw.inputs[place[bytes(test.column("id")[at])]], at, spec)
