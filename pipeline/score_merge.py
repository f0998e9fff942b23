"""Puts the results of parts together, as Parquet or CSV."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from pipeline.core.params import UserError


def check_csv(schema: Any) -> None:
    """Refuse kept columns that CSV cannot hold."""
    import pyarrow as pa

    for field in schema:
        if pa.types.is_nested(field.type) and field.name != "embedding":
            raise UserError(f"--keep: '{field.name}' holds {field.type}, which CSV cannot; write .parquet")


def merge(places: list[Path], out: Path, suffix: str) -> None:
    """Put the parts together, one in memory at a time."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        schema = parquet.read_schema(places[0]).remove_metadata()
        if suffix == ".parquet":
            with parquet.ParquetWriter(out, schema) as writer:
                for place in places:
                    writer.write_table(parquet.read_table(place, use_threads=False).replace_schema_metadata())
        else:
            plain = pa.schema([pa.field(field.name, _csv_type(field.type)) for field in schema])
            options = csv.WriteOptions(quoting_style="needed")
            with csv.CSVWriter(out, plain, write_options=options) as lines:
                for place in places:
                    lines.write_table(_as_csv(parquet.read_table(place, use_threads=False), plain))
        with out.open("rb") as written:
            os.fsync(written.fileno())
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def _csv_type(kind: Any) -> Any:
    import pyarrow as pa

    return pa.string() if pa.types.is_list(kind) or pa.types.is_binary(kind) else kind


def _as_csv(table: Any, schema: Any) -> Any:
    """Lists as JSON, bytes as base64."""
    import pyarrow as pa

    def text(cell: Any) -> str | None:
        return (
            None
            if cell is None
            else base64.b64encode(cell).decode()
            if isinstance(cell, bytes)
            else json.dumps(cell)
        )

    columns = [
        table[field.name] if table[field.name].type == field.type
        else pa.array([text(cell) for cell in table[field.name].to_pylist()], pa.string())
        for field in schema
    ]  # fmt: skip
    return pa.table(columns, schema=schema)
