"""What is scored, cut into parts that each worker reads for itself, and decoded by the bundle's own decoder.

A table of rows, a long table of series, a `.ts` file, lines of JSON, or files of one request each; `reader` says which.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.params import UserError
from pipeline.score_rows import CsvRows, Mark, ParquetRows, RowBatch, RowFile, lines_from
from pipeline.sources.tablefiles import OPENERS, PARQUET
from serving.inputs.body import BadInput
from serving.inputs.decode import Decoder, decoder
from serving.inputs.ragged import Rows, gather
from serving.inputs.spec import Column, DataSpec, read_spec
from serving.inputs.table import encode_rows

TABLES = (*OPENERS, PARQUET)
LINES = ".jsonl"
IMAGES = (".png", ".jpg", ".jpeg")
REQUESTS = {"image": (*IMAGES, ".json"), "table": (".json", ".csv"), "series": (".json", ".csv"),
            "text": (".txt", ".json")}  # fmt: skip
SLACK = 10  # a cell may be so many times too long and still be told as a text that is too long
ROWS, FILES = 8192, 512  # in a part


@dataclass(frozen=True)
class Source:
    """What is scored, and the columns that play a part: texts, the name of a series, its time, those kept."""

    path: str
    bundle: str
    text: str = "text"
    series: str = "id"
    time: str = ""
    keep: tuple[str, ...] = ()
    listing: str = ""  # the file that lists a folder's files


@dataclass(frozen=True)
class Part:
    """Some samples: their number, the first one's, how many; where they begin; rows of the file that they take."""

    number: int
    first: int
    samples: int
    mark: Mark
    rows: int


@dataclass
class Taken:
    """Decoded samples: what identifies each, the rows of the good ones, what is wrong with the others."""

    keys: list[Any]
    rows: list[np.ndarray] | np.ndarray
    wrong: dict[int, str] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)


def takes(spec: DataSpec, bundle: Path) -> Column:
    """The column that the network takes."""
    from serving.inputs.generation import latent_of, request_column

    return request_column(latent_of(bundle)) if spec.task == "generation" else spec.input


class Reader(ABC):
    """Reads one kind of input; `key` names the column that identifies a sample."""

    key = "row"
    size = ROWS  # samples of a part

    def __init__(self, source: Source) -> None:
        self.source, self.path, self.bundle = source, Path(source.path), Path(source.bundle)
        self.name = self.path.name

    @cached_property
    def spec(self) -> DataSpec:
        """What the model takes."""
        return read_spec(self.bundle)

    @cached_property
    def decode(self) -> Decoder:
        """The decoder of the server."""
        return decoder(self.spec, self.bundle)

    @property
    def kinds(self) -> dict[str, Any]:
        """The Arrow types of the kept columns."""
        if self.source.keep:
            raise UserError(f"--keep: {self.name} has no columns; only tables have")
        return {}

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """The input in parts."""

    @abstractmethod
    def read(self, part: Part, size: int) -> Iterator[Taken]:
        """The samples of a part, `size` at a time."""

    def gathered(self, taken: Taken) -> Rows:
        """The good rows as one batch."""
        if isinstance(taken.rows, np.ndarray):
            return taken.rows
        return gather(taken.rows, takes(self.spec, self.bundle))

    def _cut(self, index: Iterator[tuple[Mark, int]]) -> Iterator[Part]:
        first = 1
        for number, (mark, rows) in enumerate(index):
            yield Part(number, first, rows, mark, rows)
            first += rows

    def _decoded(self, keys: list[Any], bodies: Sequence[Callable[[], Any]], places: Sequence[str]) -> Taken:
        """Bodies through the server's decoder; a body is called for, as reading it may fail."""
        taken, rows = Taken(keys, []), list[np.ndarray]()
        for at, (body, place) in enumerate(zip(bodies, places, strict=True)):
            try:
                rows.append(self.decode(body()))
            except BadInput as error:
                taken.wrong[at] = f"{place}: {error}"
            except OSError as error:
                taken.wrong[at] = f"{place}: cannot be read: {error.strerror or error}"
        taken.rows = rows
        return taken


class TableReader(Reader):
    """Rows of CSV or Parquet, each a sample: a row of a table, or a text."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        limits = self.spec.text
        self.file = row_file(self.path, SLACK * limits.max_bytes if limits else 0)
        self.wanted = self._wanted()
        check_there(self.file, source.keep, "--keep: ")

    def _wanted(self) -> list[str]:
        if self.spec.table is None:
            check_there(self.file, [self.source.text], "--text-column: ")
            return [self.source.text]
        names = [each.name for each in self.spec.table.fields]
        check_there(self.file, names, "the model takes ")
        return names

    @property
    def kinds(self) -> dict[str, Any]:
        """As the file has them."""
        return self.file.kinds(self.source.keep)

    def parts(self) -> Iterator[Part]:
        """So many rows each."""
        return self._cut(self.file.index(self.size))

    def read(self, part: Part, size: int) -> Iterator[Taken]:
        """Rows of a table are encoded whole columns at once, by the server's function."""
        first = part.first
        for batch in self.file.read(part.mark, part.rows, size, self.wanted, self.source.keep):
            keys = list(range(first, first + len(batch)))
            taken = self._texts(keys, batch) if self.spec.table is None else self._rows(keys, batch)
            taken.wrong |= batch.wrong
            taken.kept = batch.kept
            yield taken
            first += len(batch)

    def _rows(self, keys: list[Any], batch: RowBatch) -> Taken:
        assert self.spec.table is not None
        rows, problems = encode_rows(batch.columns, self.spec.table)
        told: dict[int, list[str]] = {}
        for row, message in problems:
            told.setdefault(row, []).append(message)
        wrong = {row: f"{self._place(batch, row)}: {'; '.join(all_)}" for row, all_ in told.items()}
        bad = wrong.keys() | batch.wrong.keys()
        return Taken(keys, rows[[row for row in range(len(rows)) if row not in bad]], wrong)

    def _texts(self, keys: list[Any], batch: RowBatch) -> Taken:
        cells = batch.columns[self.source.text]
        places = [self._place(batch, row) for row in range(len(batch))]
        name = self.source.text

        def body(cell: Any) -> dict[str, Any]:
            if cell is None:
                raise BadInput(f"the column '{name}' holds nothing; expected text")
            return {"text": cell}

        return self._decoded(keys, [lambda cell=cell: body(cell) for cell in cells], places)  # type: ignore[misc]

    def _place(self, batch: RowBatch, row: int) -> str:
        line = batch.marks[row][1]
        return f"{self.name}:{line + 1 if isinstance(self.file, ParquetRows) else line}"


class LinesReader(Reader):
    """Lines of JSON, a request each."""

    def parts(self) -> Iterator[Part]:
        """So many lines each."""

        def index() -> Iterator[tuple[Mark, int]]:
            lines = self.lines((0, 1))
            for mark, _ in lines:
                yield mark, 1 + sum(1 for _ in islice(lines, self.size - 1))

        return self._cut(index())

    def lines(self, mark: Mark) -> Iterator[tuple[Mark, bytes]]:
        """The lines from a mark on."""
        return lines_from(self.path, mark)

    def body(self, line: bytes) -> Any:
        """What the decoder is given."""
        return line

    def read(self, part: Part, size: int) -> Iterator[Taken]:
        """Lines, decoded."""
        lines, first = islice(self.lines(part.mark), part.rows), part.first
        while some := list(islice(lines, size)):
            bodies = [lambda line=line: self.body(line) for _, line in some]
            places = [f"{self.name}:{number}" for (_, number), _ in some]
            yield self._decoded(list(range(first, first + len(some))), bodies, places)  # type: ignore[arg-type]
            first += len(some)


class FilesReader(Reader):
    """Files of one request each, below a folder, as `listing` has them; or one file."""

    key = "file"
    size = FILES

    def parts(self) -> Iterator[Part]:
        """So many files each."""
        if not self.source.listing:
            yield Part(0, 1, 1, (0, 1), 1)
            return
        yield from LinesReader.parts(self)  # type: ignore[arg-type]

    def lines(self, mark: Mark) -> Iterator[tuple[Mark, bytes]]:
        """The lines of the listing."""
        return lines_from(Path(self.source.listing), mark)

    def read(self, part: Part, size: int) -> Iterator[Taken]:
        """The files' bytes, decoded."""
        names: Iterator[str] = iter([self.name])
        root = self.path.parent
        if self.source.listing:
            root = self.path
            names = (json.loads(line)[0] for _, line in islice(self.lines(part.mark), part.rows))
        while some := list(islice(names, size)):
            shown = [os.fsencode(name).decode("utf-8", "replace") for name in some]
            yield self._decoded(shown, [(root / name).read_bytes for name in some], shown)


def listed(root: Path, suffixes: Sequence[str], listing: Path) -> tuple[int, int, str]:
    """Write the files below a folder, sorted, with sizes and times: how many, how many are of no use, the digest."""
    import hashlib

    used, other, digest = 0, 0, hashlib.sha256()
    with listing.open("w", encoding="ascii") as out:
        for folder, folders, files in os.walk(root, onerror=_raised):
            folders[:] = sorted(name for name in folders if name[0] != ".")
            for name in sorted(name for name in files if name[0] != "."):
                if not name.lower().endswith(tuple(suffixes)):
                    other += 1
                    continue
                path = Path(folder, name)
                try:
                    about = [path.stat().st_size, path.stat().st_mtime_ns]
                except OSError:  # told when it is read
                    about = []
                line = json.dumps([str(path.relative_to(root)), *about]) + "\n"
                digest.update(line.encode())
                out.write(line)
                used += 1
    return used, other, digest.hexdigest()


def _raised(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None


def row_file(path: Path, longest: int = 0) -> RowFile:
    """A table's file."""
    return (
        ParquetRows(path, path.name) if path.suffix.lower() == PARQUET else CsvRows(path, path.name, longest)
    )


def check_there(file: RowFile, names: Sequence[str], about: str) -> None:
    """Refuse a file without the columns that are asked for."""
    if missing := [name for name in names if name not in file.names]:
        raise UserError(
            f"{file.name}: {about}the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}, which "
            f"it has not; it has {', '.join(file.names)}"
        )
