"""Tables: rows of CSV or Parquet files with columns of any kind, encoded by the code that the server encodes with."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.sources.base import Chunk, Data, Request
from pipeline.sources.learnt import SPLITTING
from pipeline.sources.table_schema import READ, Schema, infer
from pipeline.sources.tablefiles import Batch, TableFile, open_files
from serving.inputs.body import BadInput
from serving.inputs.spec import DataSpec, TableField
from serving.inputs.table import boolean, category, encode, encode_rows, is_missing

Problems = list[tuple[int, str]]


class TableSource:
    """Rows of a file or of a folder of files of one schema; classes may get other names than the file's."""

    def __init__(
        self, data: Data, files: Sequence[TableFile] = (), named: Mapping[str, str] | None = None
    ) -> None:
        self.data, self._named, self._stray = data, dict(named or {}), list[str]()
        self._files = list(files)
        if not files:
            self._files, self._stray = open_files(data.path)

    @cached_property
    def schema(self) -> Schema:
        """What the columns hold, found by reading everything once."""
        return infer(self._files, self.data, self._named)

    @property
    def spec(self) -> DataSpec:
        """Rows of numbers and codes, with a class or values each."""
        return self.schema.spec

    def __len__(self) -> int:
        return self.schema.rows

    def left_out(self) -> list[str]:
        """Files of other formats."""
        return self._stray

    def chunks(self, size: int, bad: list[str]) -> Iterator[Chunk]:
        """Encoded rows, `size` at a time; what cannot be used is told in `bad`, and what was assumed is printed."""
        for note in self.schema.notes:
            print(f"ingest: {note}")
        for file in self._files:
            for batch in file.batches(size, bad):
                yield self._encode(batch, bad)

    def _encode(self, batch: Batch, bad: list[str]) -> Chunk:
        assert self.spec.table is not None
        rows, problems = encode_rows(batch.columns, self.spec.table)
        columns = {"row": rows, **self._targets(batch, problems)}
        for role, name in self.schema.columns.items():
            if role != "label":
                columns[role] = self._splitting(role, name, batch, problems)
        wrong: dict[int, list[str]] = defaultdict(list)
        for row, message in problems:
            wrong[row].append(message)
        bad += [f"{batch.origins[row]}: {'; '.join(wrong[row])}" for row in sorted(wrong)]
        good = np.array([row for row in range(len(rows)) if row not in wrong], np.int64)
        return Chunk(
            {name: values[good] for name, values in columns.items()},
            [batch.origins[row] for row in good],
            [batch.digests[row] for row in good],
        )

    def _targets(self, batch: Batch, problems: Problems) -> dict[str, np.ndarray]:
        """The column `label` or `target`."""
        if self.spec.task == "classification":
            return {"label": self._labels(self.schema.columns["label"], batch, problems)}
        parts = []
        for name in self.spec.targets:
            values = batch.columns[name]
            part, wrong = encode(TableField(name=name, kind="number"), values)
            missing = np.flatnonzero(np.isnan(part)).tolist()
            for row in sorted({*wrong, *missing}):
                found = "is missing" if is_missing(values[row]) else f"is {values[row]!r}"
                problems.append((row, f"the target '{name}' {found}; expected a finite number"))
            parts.append(part)
        return {"target": np.stack(parts, axis=1)}

    def _labels(self, name: str, batch: Batch, problems: Problems) -> np.ndarray:
        known = {name: code for code, name in enumerate(self.spec.classes)}
        labels = np.zeros(len(batch.origins), np.int64)
        for row, cell in enumerate(batch.columns[name]):
            if is_missing(cell):
                problems.append((row, f"the target '{name}' is missing"))
            else:
                said = category(cell)
                labels[row] = known[self._named.get(said, said)]
        return labels

    def _splitting(self, role: str, name: str, batch: Batch, problems: Problems) -> np.ndarray:
        """The column `group`, `time` or `split`; a row that names no group is one of its own."""
        column, read = SPLITTING[role]
        out = np.zeros(len(batch.origins), column.dtype)
        for row, cell in enumerate(batch.columns[name]):
            if is_missing(cell) and role != "group":
                problems.append((row, f"the {role} '{name}' is missing"))
                continue
            try:
                out[row] = read(f"row {batch.origins[row]}" if is_missing(cell) else cell)
            except BadInput as error:
                problems.append((row, str(error)))
        return out

    def requests(self, origins: Collection[str]) -> dict[str, tuple[Request, ...]]:
        """Rows as a client sends them, from the file's own cells: JSON, and CSV with a header line."""
        wanted = set(origins)
        files = {origin.rpartition(":")[0] for origin in wanted}
        found: dict[str, tuple[Request, ...]] = {}
        for batch in (b for file in self._files if file.name in files for b in file.batches(READ, [])):
            for row, origin in enumerate(batch.origins):
                if origin in wanted:
                    found[origin] = self._forms({name: cells[row] for name, cells in batch.columns.items()})
        return found

    def _forms(self, cells: Mapping[str, Any]) -> tuple[Request, ...]:
        assert self.spec.table is not None
        fields = self.spec.table.fields
        body = json.dumps({field.name: _plain(field, cells[field.name]) for field in fields}) + "\n"
        text = io.StringIO()
        row = ["" if cells[field.name] is None else cells[field.name] for field in fields]
        csv.writer(text, lineterminator="\n").writerows([[field.name for field in fields], row])
        return (
            Request(body.encode(), "json", "application/json"),
            Request(text.getvalue().encode(), "csv", "text/csv"),
        )


def _plain(field: TableField, cell: Any) -> Any:
    """A cell as JSON has it."""
    if is_missing(cell):
        return None
    if field.kind == "number" and isinstance(cell, str):
        return int(cell) if cell.strip().isdecimal() else float(cell)
    if field.kind == "boolean":
        return bool(boolean(cell))
    return cell if isinstance(cell, int | float) else str(cell)
