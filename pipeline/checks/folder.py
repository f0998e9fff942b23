"""Is the folder what its `spec.json` says?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.checks.findings import EXAMPLES, Example, Finding
from pipeline.core.dataset import Dataset
from serving.inputs.ragged import Ragged


def misplaced(rows: Ragged) -> str:
    """What is wrong with where rows of unequal length begin and end, if anything is."""
    ends = np.asarray(rows.offsets)
    if ends.ndim != 1 or not len(ends) or ends[0] != 0 or ends[-1] != len(rows.values):
        return f"its rows end at step {ends[-1] if ends.ndim == 1 and len(ends) else None}, not {len(rows.values)}"
    empty = np.flatnonzero(np.diff(ends) < 1)
    return f"row {empty[0]} has no steps" if len(empty) else ""


def schema(dataset: Dataset) -> Iterator[Finding]:
    """Find where the folder is not what its `spec.json` says; nothing else can be checked then."""

    def error(message: str, count: int, rows: Iterable[int] = ()) -> Finding:
        examples = tuple(Example(rows=(int(row),)) for row in rows)
        return Finding(level="error", check="schema", message=message, count=count, examples=examples)

    rows: dict[str, int] = {}
    for column in dataset.spec.columns:
        try:
            array = dataset.column(column.name)
        except (OSError, ValueError) as problem:
            yield error(f"column '{column.name}' cannot be read: {problem}", 1)
            continue
        if column.ragged and (wrong_ends := misplaced(array)):
            yield error(f"column '{column.name}' cannot be read: {wrong_ends}", 1)
            continue
        rows[column.name] = len(array) if column.ragged or array.ndim else 0
        array = array.values if column.ragged else array
        if array.dtype != np.dtype(column.dtype) or array.shape[1:] != column.shape:
            found, expected = f"{array.dtype.str} {array.shape[1:]}", f"{column.dtype} {column.shape}"
            yield error(f"column '{column.name}' holds rows of {found}; expected {expected}", 1)
        elif column.role == "target" and dataset.spec.classes:
            labels = np.asarray(array)
            known = len(dataset.spec.classes)
            wrong = np.flatnonzero((labels < 0) | (labels >= known))
            if len(wrong):
                message = f"{len(wrong)} labels are outside the {known} classes; expected 0 to {known - 1}"
                yield error(message, len(wrong), wrong[:EXAMPLES])
        elif column.role == "target":
            wrong = np.flatnonzero(~np.isfinite(np.asarray(array)).all(axis=1))
            if len(wrong):
                yield error(f"{len(wrong)} targets are missing or infinite", len(wrong), wrong[:EXAMPLES])
    if len(set(rows.values())) > 1:
        yield error(f"the columns differ in length: {rows}", len(rows))
    elif not any(rows.values()):
        yield error("there are no rows", 0)
