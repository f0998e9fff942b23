"""Series that are scored: long tables, a row a step, and `.ts` files, a line a series."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from pipeline.core.params import UserError
from pipeline.score_inputs import LinesReader, Part, Reader, Source, Taken, check_there, row_file
from pipeline.score_rows import Mark
from pipeline.sources import ts
from serving.inputs.body import BadInput
from serving.inputs.series import check_steps
from serving.inputs.table import days, is_missing

SERIES, STEPS = 512, 65_536  # in a part at most, but for the series that goes beyond
READ = 8192


@dataclass
class Steps:
    """The rows of one series, as they come."""

    name: Any
    lines: list[int] = field(default_factory=list)
    cells: list[tuple[Any, ...]] = field(default_factory=list)
    times: list[Any] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    wrong: str = ""


class LongReader(Reader):
    """A long table: adjacent rows with one value of the column `--series-id` are a series; without it all rows are.

    Of a series to be forecast the last steps are taken, as many as the model takes.
    """

    key = "series"

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        assert self.spec.series is not None
        self.limits = self.spec.series
        self.file = row_file(self.path)
        self.id = source.series if source.series in self.file.names or not self.limits.horizon else ""
        check_there(self.file, [name for name in (self.id,) if name], "--series-id: ")
        check_there(self.file, [name for name in (source.time,) if name], "--time: ")
        check_there(self.file, self.limits.channels, "the model takes ")
        check_there(self.file, source.keep, "--keep: ")

    @property
    def kinds(self) -> dict[str, Any]:
        """As the file has them; a series takes its first row's."""
        return self.file.kinds(self.source.keep)

    def parts(self) -> Iterator[Part]:
        """Whole series each.

        Raises:
            UserError: the rows of a series are not adjacent.
        """
        seen, named = array("Q"), dict[int, tuple[str, int]]()
        number, first, series, rows, begins = 0, 1, 0, 0, self.file.begins
        last: Any = None
        for mark, line, name in self._names():
            if not series or (self.id and name != last):
                key = int.from_bytes(hashlib.blake2b(repr(name).encode(), digest_size=8).digest(), "big")
                seen.append(key)
                if len(named) < SERIES:
                    named[key] = (str(name), line)
                if series and (series >= SERIES or rows >= STEPS):
                    yield Part(number, first, series, begins, rows)
                    number, first, series, rows, begins = number + 1, first + series, 0, 0, mark
                elif not series:
                    begins = mark
                series, last = series + 1, name
            rows += 1
        if series:
            yield Part(number, first, series, begins, rows)
        if len(np.unique(np.frombuffer(seen, np.uint64))) < len(seen):
            raise UserError(
                f"{self.file.name}: the rows of a series are not adjacent{self._which()}; sort it by "
                f"'{self.id}', as series are read one after the other"
            )

    def _names(self) -> Iterator[tuple[Mark, int, Any]]:
        """Where each row begins, its line, and the series that it names; None goes on with the last."""
        wanted = [self.id] if self.id else []
        last: Any = None
        for batch in self.file.read(self.file.begins, None, READ, wanted or self.file.names[:1]):
            cells = batch.columns[self.id] if self.id else [""] * len(batch)
            for at, cell in enumerate(cells):
                last = last if at in batch.wrong else cell
                yield batch.marks[at], batch.marks[at][1], last

    def _which(self) -> str:
        """The first series that begins a second time."""
        seen, last = set[Any](), object()
        for _, line, name in self._names():
            if name != last and name in seen:
                return f": '{name}' begins anew at {self._place(line)}"
            seen.add(name)
            last = name
        return ""

    def read(self, part: Part, size: int) -> Iterator[Taken]:
        """The series of a part."""
        series = self._series(part)
        while some := list(islice(series, size)):
            taken, rows = Taken([each.name for each in some], []), list[np.ndarray]()
            for at, each in enumerate(some):
                try:
                    rows.append(self._decoded_steps(each))
                except BadInput as error:
                    place = self._place(each.lines[0]) if each.lines else self.file.name
                    taken.wrong[at] = f"{place}: {error}"
            taken.rows = rows
            taken.keys = ["" if each.name is None else str(each.name) for each in some]
            taken.kept = {name: _joined([each.kept[name] for each in some], kind)
                          for name, kind in self.kinds.items()}  # fmt: skip
            yield taken

    def _series(self, part: Part) -> Iterator[Steps]:
        time = self.source.time
        wanted = list(dict.fromkeys([*self.limits.channels, *([self.id] if self.id else []),
                                     *([time] if time else [])]))  # fmt: skip
        now: Steps | None = None
        for batch in self.file.read(part.mark, part.rows, READ, wanted, self.source.keep):
            cells = list(zip(*(batch.columns[name] for name in self.limits.channels), strict=True))
            for at in range(len(batch)):
                name = batch.columns[self.id][at] if self.id else "all"
                if now is None or (at not in batch.wrong and name != now.name):
                    if now is not None:
                        yield now
                    now = Steps(name, kept={name: column[at : at + 1] for name, column in batch.kept.items()})
                now.lines.append(batch.marks[at][1])
                now.cells.append(cells[at])
                if time:
                    now.times.append(batch.columns[time][at])
                now.wrong = now.wrong or batch.wrong.get(at, "")
        if now is not None:
            yield now

    def _decoded_steps(self, series: Steps) -> np.ndarray:
        """The steps (T, C), in the order of time, checked as the server checks them."""
        if series.wrong:
            raise BadInput(f"the series holds a row that cannot be read: {series.wrong}")
        if is_missing(series.name) and self.id:
            raise BadInput(f"the row names no series: '{self.id}' is empty")
        values = np.full((len(series.cells), len(self.limits.channels)), np.nan)
        for at, cells in enumerate(series.cells):
            for channel, cell in enumerate(cells):
                if not is_missing(cell):
                    try:
                        values[at, channel] = float(cell)
                    except (ValueError, TypeError):
                        name = self.limits.channels[channel]
                        raise BadInput(
                            f"{self._place(series.lines[at])}: column '{name}' holds {cell!r}; expected a number or "
                            "nothing"
                        ) from None
        if self.source.time:
            values = values[self._order(series)]
        if self.limits.horizon:
            values = values[-self.limits.max_steps :]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is refused
            return check_steps(values.astype(np.float32), self.limits)

    def _order(self, series: Steps) -> np.ndarray:
        times = np.zeros(len(series.times))
        for at, cell in enumerate(series.times):
            try:
                times[at] = _time(cell)
            except (ValueError, TypeError):
                raise BadInput(
                    f"{self._place(series.lines[at])}: the time is {cell!r}; expected a number or ISO 8601"
                ) from None
        order = np.argsort(times, kind="stable")
        if len(twice := np.flatnonzero(np.diff(times[order]) == 0)):
            both = sorted(series.lines[row] for row in order[twice[0] : twice[0] + 2])
            raise BadInput(f"{self._place(both[0])} and {self._place(both[1])} have the same time")
        return order

    def _place(self, line: int) -> str:
        return f"{self.file.name}:{line if self.file.begins[1] else line + 1}"


def _joined(cells: list[Any], kind: Any) -> Any:
    """Arrays of one value each as one."""
    import pyarrow as pa

    return pa.concat_arrays(cells) if cells else pa.array([], kind)


def _time(cell: Any) -> float:
    """A time as a number that sorts as it does."""
    try:
        found = float(cell)
    except (ValueError, TypeError):
        found = days(cell)
    if not np.isfinite(found):
        raise ValueError("not finite")
    return found


class TsReader(LinesReader):
    """A `.ts` file; labels, where it has them, are not looked at."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        assert self.spec.series is not None
        self.limits = self.spec.series
        head = ts.read_header(self.path, labelled=False)
        self._ends = "" if head.labelled else ":?"
        channels = len(self.limits.channels)
        if head.channels and head.channels != channels:
            raise UserError(
                f"{self.name} has series of {head.channels} dimensions; the model takes {channels}"
            )

    def lines(self, mark: Mark) -> Iterator[tuple[Mark, bytes]]:
        """The lines that hold a series."""
        begun = mark != (0, 1)
        for place, line in super().lines(mark):
            text = line.strip()
            if begun and not text.startswith((b"#", b"%")):
                yield place, line
            begun = begun or text.lower() == b"@data"

    def _decoded(self, keys: list[Any], bodies: Any, places: Any) -> Taken:
        taken, rows = Taken(keys, []), list[np.ndarray]()
        for at, (body, place) in enumerate(zip(bodies, places, strict=True)):
            try:
                rows.append(body())
            except BadInput as error:
                taken.wrong[at] = f"{place}: {error}"
        taken.rows = rows
        return taken

    def body(self, line: bytes) -> np.ndarray:
        """The steps (T, C), checked as the server checks them."""
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            raise BadInput("not UTF-8; expected UTF-8") from None
        values, _ = ts.parse(text + self._ends, len(self.limits.channels))
        with np.errstate(over="ignore"):
            return check_steps(values.astype(np.float32), self.limits)
