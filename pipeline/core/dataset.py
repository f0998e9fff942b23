"""The data set folder: one `.npy` a column, all of N rows, and `spec.json`. Written and read in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from serving.inputs.spec import Column, DataSpec, read_spec, write_json

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


class DatasetWriter:
    """Writes a data set folder chunk by chunk; use as a context manager."""

    def __init__(self, folder: Path, spec: DataSpec) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._spec = folder, spec
        self._columns = {
            column.name: ColumnWriter(folder / f"{column.name}.npy", column.dtype, column.shape)
            for column in spec.columns
        }

    def append(self, chunk: Mapping[str, np.ndarray]) -> None:
        """Append the same number of rows to every column."""
        assert chunk.keys() == self._columns.keys(), chunk.keys()
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


class Dataset:
    """A data set folder, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = read_spec(folder)

    def column(self, name: str) -> np.ndarray:
        """A whole column, memory-mapped read-only: shape (N, *shape)."""
        array: np.ndarray = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return array

    def __len__(self) -> int:
        return len(self.column(self.spec.columns[0].name))

    def chunks(
        self, names: Sequence[str] | None = None, rows: int = CHUNK
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield consecutive rows of the named columns (all by default), copied.

        Every chunk maps the files anew, so that pages already read do not pile up in memory.
        """
        names = names or [column.name for column in self.spec.columns]
        for start in range(0, len(self), rows):
            yield {name: np.array(self.column(name)[start : start + rows]) for name in names}


def image_columns(shape: tuple[int, ...]) -> tuple[Column, ...]:
    """The columns of an image data set; `id` is the SHA-256 of the canonical pixels."""
    return (
        Column(name="image", role="input", dtype="|u1", shape=shape),
        Column(name="label", role="target", dtype="<i8"),
        Column(name="id", role="id", dtype="|S64"),
    )
