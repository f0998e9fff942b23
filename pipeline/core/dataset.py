"""The data set folder: one `.npy` a column, all of N rows, and `spec.json`. Written and read in chunks.

A ragged column is two files: the values of all rows one after the other, and `<name>.offsets.npy`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from pipeline.core.params import UserError
from serving.inputs.ragged import Ragged, Rows
from serving.inputs.spec import Column, DataSpec, Role, read_spec, write_json

CHUNK = 1024  # rows; a chunk of 28x28 images is under 1 MB


class ColumnWriter:
    """Appends rows to a `.npy` file; the header, rewritten on close, is padded for any row count."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape, self.rows = np.dtype(dtype), shape, 0
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, rows: np.ndarray) -> None:
        """Append rows of shape (n, *shape)."""
        assert rows.shape[1:] == self.shape, (rows.shape, self.shape)
        self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        self.rows += len(rows)

    def close(self) -> None:
        """Write the final header."""
        end = self._file.tell()
        self._file.seek(0)
        self._write_header()
        self._file.seek(end)
        self._file.close()


class RaggedWriter:
    """Appends rows of unequal length: their steps to one file, where each row ends to another."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self._values = ColumnWriter(path, dtype, shape)
        self._offsets = ColumnWriter(path.with_suffix(".offsets.npy"), "<i8", ())
        self._offsets.append(np.zeros(1, np.int64))

    def append(self, rows: Ragged) -> None:
        """Append rows of shape (T_n, *shape)."""
        self._offsets.append(self._values.rows + (rows.offsets[1:] - rows.offsets[0]))
        self._values.append(rows.values)

    def close(self) -> None:
        """Write the final headers."""
        self._values.close()
        self._offsets.close()


class DatasetWriter:
    """Writes a data set folder chunk by chunk; use as a context manager."""

    def __init__(self, folder: Path, spec: DataSpec) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._spec = folder, spec
        self._columns: dict[str, Any] = {
            column.name: (RaggedWriter if column.ragged else ColumnWriter)(
                folder / f"{column.name}.npy", column.dtype, column.shape
            )
            for column in spec.columns
        }

    def append(self, chunk: Mapping[str, Rows]) -> None:
        """Append the same number of rows to every column."""
        assert chunk.keys() == self._columns.keys(), (chunk.keys(), self._columns.keys())
        for name, rows in chunk.items():
            self._columns[name].append(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for column in self._columns.values():
            column.close()
        if kind is None:
            write_json(self._folder / "spec.json", self._spec)


def mapped(path: Path) -> np.ndarray:
    """An array file, memory-mapped read-only.

    Raises:
        UserError: it is empty, cut short, or no array.
    """
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); 'dvc checkout --force' brings back the recorded one"
        ) from None
    return found


class Dataset:
    """A data set folder, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = read_spec(folder)
        self._ragged = {column.name for column in self.spec.columns if column.ragged}

    def column(self, name: str) -> Any:
        """A whole column, memory-mapped read-only: an array (N, *shape), or `Ragged` rows.

        Raises:
            UserError: its file is damaged.
        """
        array = mapped(self.folder / f"{name}.npy")
        return Ragged(array, mapped(self.folder / f"{name}.offsets.npy")) if name in self._ragged else array

    @property
    def inputs(self) -> Any:
        """The column that the model sees: an array (N, *shape), or `Ragged` rows."""
        return self.column(self.spec.input.name)

    @property
    def targets(self) -> np.ndarray:
        """The column that the model learns, in memory: class numbers (N,) int64, or values (N, M) float32."""
        return np.array(self.column(self.spec.target.name))

    def has(self, role: Role) -> bool:
        """True where a column of that role is there."""
        return self.spec.role(role) is not None

    def __len__(self) -> int:
        return len(self.column(self.spec.target.name))

    def chunks(self, names: Sequence[str] | None = None, rows: int = CHUNK) -> Iterator[dict[str, Any]]:
        """Yield consecutive rows of the named columns (all by default), copied.

        Every chunk maps the files anew, so that pages already read do not pile up in memory.
        """
        names = names or [column.name for column in self.spec.columns]
        for start in range(0, len(self), rows):
            piece = slice(start, start + rows)
            yield {
                name: column[piece]
                if isinstance(column := self.column(name), Ragged)
                else np.array(column[piece])
                for name in names
            }

    def input_chunks(self, rows: int = CHUNK) -> Iterator[Any]:
        """Yield the inputs alone, in chunks."""
        name = self.spec.input.name
        for chunk in self.chunks([name], rows):
            yield chunk[name]


def numbered(folder: Path) -> list[Path]:
    """The folders 0, 1, 2, ... within a folder, in order; none where it is not there."""
    found = [path for path in folder.glob("[0-9]*") if path.is_dir() and path.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name))


def columns_of(spec_input: Column, targets: int, *more: Column) -> tuple[Column, ...]:
    """The columns of a data set: the input, the target (`targets` values, or 0 for a class), the id and others.

    `id` is the SHA-256 of the canonical input.
    """
    target = (
        Column(name="target", role="target", dtype="<f4", shape=(targets,))
        if targets
        else Column(name="label", role="target", dtype="<i8")
    )
    return (spec_input, target, Column(name="id", role="id", dtype="|S64"), *more)


def image_columns(shape: tuple[int, ...]) -> tuple[Column, ...]:
    """The columns of images of `shape`, (C, H, W), with a class each."""
    return columns_of(Column(name="image", role="input", dtype="|u1", shape=shape), 0)


def identities(rows: Rows) -> np.ndarray:
    """The `id` (n,) S64 of canonical inputs: the SHA-256 of each one's bytes."""
    return np.array([hashlib.sha256(rows[at].tobytes()).hexdigest() for at in range(len(rows))], "S64")
