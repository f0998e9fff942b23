"""What tests of tables share: small files of people, and a source of them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.params import UserError
from pipeline.sources import Data
from pipeline.sources.table import TableSource

PEOPLE = """age,member,joined,city,score,label
31,yes,2024-01-05,Rome,1.5,a
,no,2024-02-01T12:00:00Z,Oslo,NA,b
44,yes,,"Oslo, East",-2e3,a
27.0,no,1969-12-31, Rome ,0,b
"""


def source(folder: Path, text: str | bytes, name: str = "rows.csv", **data: Any) -> TableSource:
    """A source of one file."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return table(folder / name, **data)


def table(path: Path, **data: Any) -> TableSource:
    return TableSource(Data.model_validate({"source": "table", "path": str(path), **data}))


def rows_of(found: TableSource, size: int = 512) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """All columns, origins, and what could not be used."""
    bad: list[str] = []
    chunks = list(found.chunks(size, bad))
    columns = {name: np.concatenate([c.columns[name] for c in chunks]) for name in chunks[0].columns}
    return columns, [origin for chunk in chunks for origin in chunk.origins], bad


def refused(found: TableSource) -> str:
    with pytest.raises(UserError) as error:
        _ = found.spec
    return str(error.value)


def kinds(found: TableSource) -> dict[str, str]:
    assert found.spec.table is not None
    return {field.name: field.kind for field in found.spec.table.fields}


def arrow_people() -> pa.Table:
    noon = datetime.datetime(2024, 2, 1, 12, tzinfo=datetime.UTC)
    return pa.table({
        "age": pa.array([31, None, 44, 27], pa.int8()),
        "member": [True, False, True, False],
        "joined": pa.array([datetime.datetime(2024, 1, 5, tzinfo=datetime.UTC), noon, None,
                            datetime.datetime(1969, 12, 31, tzinfo=datetime.UTC)], pa.timestamp("ns", "UTC")),
        "city": pa.array(["Rome", "Oslo", "Oslo, East", " Rome "]).dictionary_encode(),
        "score": pa.array([1.5, float("nan"), -2000, 0]),
        "label": ["a", "b", "a", "b"],
    })  # fmt: skip
