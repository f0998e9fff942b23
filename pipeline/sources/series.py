"""Series: `.ts` files, long tables of CSV or Parquet, and what a package ships."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.params import UserError
from pipeline.extras import folder_of
from pipeline.sources import long, ts
from pipeline.sources.base import Data, Request
from pipeline.sources.files import files_below, strangers
from pipeline.sources.learnt import Learnt, in_order
from pipeline.sources.samples import RaggedSource, Sample, check_columns, same_columns, targets_among
from pipeline.sources.tablefiles import KNOWN, no_rows
from serving.inputs.body import BadInput
from serving.inputs.series import check_steps
from serving.inputs.spec import Column, DataSpec, SeriesInput

TS = ".ts"
MIXED = (TS, *KNOWN)


class SeriesSource(RaggedSource):
    """Series (T, C) with a class or values each; a sub-class sets `channels` and reads them."""

    channels: tuple[str, ...]

    @property
    def input(self) -> Column:
        """Steps of channels."""
        return Column(name="series", role="input", dtype="<f4", shape=(len(self.channels),), ragged=True)

    @property
    def takes(self) -> SeriesInput:
        """Which series are taken."""
        return SeriesInput(channels=self.channels, max_steps=self.data.max_steps)

    @property
    def spec(self) -> DataSpec:
        """Series, with what is to be learnt of each."""
        return DataSpec(
            modality="series", source=self.data.source, series=self.takes, columns=self.columns, **self.learns
        )

    def canonical(self, content: Any) -> np.ndarray:
        """The steps (T, C) float32, checked as the server checks them."""
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is refused
            return check_steps(content.astype(np.float32), self.takes)

    def raw(self, content: Any) -> bytes:
        """The values as they were read, before they became float32."""
        values: bytes = content.tobytes()
        return values

    def forms(self, content: Any) -> tuple[Request, ...]:
        """JSON, a list a step (a number a step of a lone channel), and CSV with a header."""
        steps = [[None if np.isnan(value) else value for value in step] for step in content.tolist()]
        plain = [step[0] for step in steps] if len(self.channels) == 1 else steps
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(self.channels)
        table.writerows(["NA" if value is None else repr(value) for value in step] for step in steps)
        return (
            Request((json.dumps({"series": plain}) + "\n").encode(), "json", "application/json"),
            Request(text.getvalue().encode(), "csv", "text/csv"),
        )

    def left_out(self) -> list[str]:
        """Files of other kinds, and folders."""
        return strangers(self.data.path, MIXED)


class TsSource(SeriesSource):
    """Series of `.ts` files; where some are named TRAIN and others TEST, all are read and split anew."""

    def __init__(self, data: Data, files: Sequence[Path]) -> None:
        super().__init__(data)
        self._files = {file: ts.read_header(file) for file in files}
        widths = {file: self._width(file) for file in files}
        first = files[0]
        for file, width in widths.items():
            if width != widths[first]:
                told = f"{file.name} has series of {width} dimensions, {first.name} of {widths[first]}"
                raise UserError(f"data.path: {told}; files of one data set have the same")
        count = widths[first]
        self.channels = ("value",) if count == 1 else tuple(f"dim_{at}" for at in range(1, count + 1))
        self.count = sum(1 for file in files for _ in ts.data_lines(file))
        if not self.count:
            raise UserError(
                f"{', '.join(file.name for file in files)} holds no series below the line '@data'"
            )
        self.learnt = self._learnt(data)

    def _width(self, file: Path) -> int:
        """How many dimensions the file says, or its first series has."""
        first = next((line for _, line in ts.data_lines(file)), "")
        return self._files[file].channels or first.count(":")

    def _learnt(self, data: Data) -> Learnt:
        kinds = {"regression" if head.regression else "classification" for head in self._files.values()}
        if len(kinds) > 1 or data.task not in ("auto", *kinds):
            told = f"expected {data.task}" if len(kinds) == 1 else "they must agree"
            raise UserError(f"data.path: the .ts files are for {' and '.join(sorted(kinds))}; {told}")
        if kinds == {"regression"}:
            return Learnt(("target",), "regression")
        classes = {name for head in self._files.values() for name in head.classes}
        return Learnt(("label",), "classification", in_order(classes))

    def samples(self) -> Iterator[Sample]:
        """The series, line by line."""
        for file in self._files:
            for number, line in ts.data_lines(file):
                origin = f"{file.name}:{number}"
                try:
                    values, label = ts.parse(line, len(self.channels))
                except BadInput as error:
                    yield Sample(origin, None, problem=str(error))
                else:
                    yield Sample(origin, values, (label,))


class LongSource(SeriesSource):
    """Series of long tables: a row a step, `data.series_id` tells which rows are a series."""

    def __init__(self, data: Data, files: Sequence[Path]) -> None:
        super().__init__(data)
        self._files = [long.LongFile(file) for file in files]
        names = same_columns(data, {file.name: file.names for file in self._files})
        named = {"series_id": data.series_id, "time": data.time, "group": data.group, "split": data.split}
        check_columns(data, names, named, files[0].name)
        left = [name for name in names if name not in {*named.values(), *data.drop}]
        targets = targets_among(data, left)
        self.channels = tuple(name for name in left if name not in targets)
        if not self.channels:
            raise UserError(f"data.path: {files[0].name} has no column left to be a channel of the series")
        splitting = tuple((part, named[part]) for part in ("group", "split") if named[part])
        self.splitting = tuple(part for part, _ in splitting)
        self._layout = long.Layout(data.series_id, data.time, self.channels, targets, splitting)
        self._survey(targets)

    def _survey(self, targets: tuple[str, ...]) -> None:
        """Count the series and find what there is to learn; a series lies in one file."""
        held: dict[str, str] = {}
        seen: list[list[Any]] = [[] for _ in targets]
        for file in self._files:
            series, values = long.survey(file, self._layout)
            for name in series:
                if name in held:
                    raise UserError(
                        f"data.path: the series '{name}' lies in {held[name]} and in {file.name}; "
                        "put all of a series into one file, or give them different names"
                    )
                held[name] = file.name
            seen = [[*old, *new] for old, new in zip(seen, values, strict=True)]
        if not held:
            raise no_rows([file.name for file in self._files], [])
        self.count, self.learnt = len(held), Learnt.found(targets, seen, self.data.task)

    def samples(self) -> Iterator[Sample]:
        """The series, file by file; one file is in memory at a time."""
        for file in self._files:
            yield from long.samples(file, self._layout)


def own(data: Data) -> SeriesSource:
    """The reader of a user's own files: all `.ts`, or all long tables.

    Raises:
        UserError: there are both, or none.
    """
    files = files_below(data.path, MIXED)
    kinds = {file.suffix.lower() == TS for file in files}
    if len(kinds) > 1:
        raise UserError(f"data.path: {data.path} holds both .ts files and tables; leave one kind there")
    if kinds == {False}:
        return LongSource(data, files)
    if unused := [key for key in ("target", "drop", "group", "time", "split") if getattr(data, key)]:
        raise UserError(f"data.{unused[0]} names columns; .ts files have none: leave it empty")
    return TsSource(data, files)


class PackagedSource(TsSource):
    """The `.ts` files of one data set that `sktime` ships (BSD-3)."""

    def left_out(self) -> list[str]:
        """Nothing."""
        return []


def packaged(data: Data, name: str) -> SeriesSource:
    """Both parts of a data set, which are split anew."""
    folder = folder_of(data.source) / "datasets" / "data" / name
    return PackagedSource(data, [folder / f"{name}_{part}.ts" for part in ("TRAIN", "TEST")])


def vowels(data: Data) -> SeriesSource:
    """JapaneseVowels: 640 utterances of nine speakers, 12 channels, 7 to 29 steps (Kudo et al., 1999)."""
    return packaged(data, "JapaneseVowels")


def plaid(data: Data) -> SeriesSource:
    """PLAID: the current of 1,074 household appliances of eleven kinds, 100 to 1,344 steps (Gao et al., 2014)."""
    return packaged(data, "PLAID")
