"""What every source of ragged samples, series and texts, does with the raw samples that it reads."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from pipeline.core.dataset import columns_of
from pipeline.core.params import UserError
from pipeline.sources.base import Chunk, Data, Request
from pipeline.sources.learnt import SPLITTING, Learnt
from serving.inputs.body import BadInput
from serving.inputs.ragged import Ragged
from serving.inputs.spec import Column, DataSpec, Task

FEW = 3  # columns that a message names


@dataclass(frozen=True)
class Sample:
    """One raw sample: where it came from, its content, its targets' cells, what the split needs of it."""

    origin: str
    content: Any
    targets: tuple[Any, ...] = ()
    splitting: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""  # why it cannot be used, where that is known already


class RaggedSource(ABC):
    """A source of samples of unequal length; a sub-class says what one is, and sets `learnt` and `count`."""

    learnt: Learnt
    count: int
    splitting: tuple[str, ...] = ()  # of the keys of `SPLITTING`, those that the samples have

    def __init__(self, data: Data) -> None:
        self.data = data

    @property
    @abstractmethod
    def input(self) -> Column:
        """The column that the samples make."""

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """What the samples are."""

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """The raw samples, in a fixed order."""

    @abstractmethod
    def canonical(self, content: Any) -> np.ndarray:
        """The canonical row (T, *shape) of a raw sample.

        Raises:
            BadInput: it cannot be used.
        """

    @abstractmethod
    def raw(self, content: Any) -> bytes:
        """The bytes of which the manifest holds the digest."""

    @abstractmethod
    def forms(self, content: Any) -> tuple[Request, ...]:
        """A raw sample as a client may send it."""

    def __len__(self) -> int:
        return self.count

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the data set folder."""
        more = (SPLITTING[name][0] for name in self.splitting)
        return columns_of(self.input, self.learnt.width, *more)

    @property
    def learns(self) -> dict[str, Any]:
        """What the spec says of the targets."""
        task: Task = self.learnt.task
        return {
            "task": task,
            "classes": self.learnt.classes,
            "targets": () if self.learnt.classes else self.learnt.names,
        }

    def chunks(self, size: int, bad: list[str]) -> Iterator[Chunk]:
        """Canonical samples, `size` at a time; what cannot be used is told in `bad`."""
        samples = self.samples()
        while taken := list(islice(samples, size)):
            yield self._chunk(taken, bad)

    def _chunk(self, samples: list[Sample], bad: list[str]) -> Chunk:
        rows, used = [], []
        for sample in samples:
            try:
                if sample.problem:
                    raise BadInput(sample.problem)
                parts = {name: SPLITTING[name][1](sample.splitting[name]) for name in self.splitting}
                rows.append((self.canonical(sample.content), self.learnt.read(sample.targets), parts))
                used.append(sample)
            except BadInput as error:
                bad.append(f"{sample.origin}: {error}")
        return Chunk(
            {
                self.input.name: Ragged.of([row for row, _, _ in rows], self.input.dtype, self.input.shape),
                self.learnt.column: self.learnt.stack([targets for _, targets, _ in rows]),
                **{
                    name: np.array([parts[name] for _, _, parts in rows], SPLITTING[name][0].dtype)
                    for name in self.splitting
                },
            },
            [sample.origin for sample in used],
            [hashlib.sha256(self.raw(sample.content)).hexdigest() for sample in used],
        )

    def requests(self, origins: Collection[str]) -> dict[str, tuple[Request, ...]]:
        """Some samples as a client may send them, by their origin."""
        wanted, found = set(origins), {}
        for sample in self.samples():
            if sample.origin in wanted:
                found[sample.origin] = self.forms(sample.content)
                if len(found) == len(wanted):
                    break
        return found

    def left_out(self) -> list[str]:
        """Nothing."""
        return []


def check_columns(data: Data, names: list[str], needed: Mapping[str, str], file: str) -> None:
    """Refuse a table that lacks a column which the `data` section names; `needed` are such by their key.

    Raises:
        UserError: one is missing.
    """
    named = [(key, name) for key, name in needed.items() if name]
    named += [("target", name) for name in data.target] + [("drop", name) for name in data.drop]
    for key, name in named:
        if name not in names:
            shown = ", ".join(names)
            raise UserError(f"data.{key}: '{name}' is no column of {file}, which has {shown}")
    taken = {name: key for key, name in [*needed.items(), *(("drop", name) for name in data.drop)]}
    for name in data.target:
        if name in taken:
            raise UserError(
                f"data.target: '{name}' is named by data.{taken[name]} too; it can be one of them"
            )


def same_columns(data: Data, files: Mapping[str, list[str]]) -> list[str]:
    """The columns that all files have in common, which must be the same.

    Raises:
        UserError: a file has other columns than the first.
    """
    (first, names), *others = files.items()
    for file, found in others:
        wrong = [f"has no column '{name}'" for name in names if name not in found]
        wrong += [f"has a column '{name}' more" for name in found if name not in names]
        if wrong:
            told = ", ".join(wrong[:FEW])
            raise UserError(
                f"data.path: {file} {told} than {first}; all files of {data.path} need the same columns"
            )
    return names


def targets_among(data: Data, left: list[str]) -> tuple[str, ...]:
    """`data.target`, or the last of the columns that have no other part.

    Raises:
        UserError: none is left.
    """
    if data.target:
        return data.target
    if not left:
        raise UserError("data.target: there is no column left to learn; name one")
    return (left[-1],)
