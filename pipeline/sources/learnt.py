"""What is to be learnt from series and texts, and what else of a row matters to the split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.params import UserError
from serving.inputs.body import BadInput
from serving.inputs.spec import Column, Task
from serving.inputs.table import category, days, is_missing, number

FEW = 20  # numbers of at most so many different values are classes
SPLITS = {"train": 0, "val": 1, "test": 2}  # as a column of the user's own names them


def as_number(value: Any) -> float | None:
    """A finite number, or None where the cell is none."""
    try:
        return number(value)
    except (ValueError, TypeError, OverflowError):
        return None


def in_order(classes: Iterable[str]) -> tuple[str, ...]:
    """Names of classes by their value where all are numbers, otherwise by the alphabet.

    >>> in_order({"10", "9"})
    ('9', '10')
    """
    names = sorted(classes)
    numeric = None not in map(as_number, names)
    return tuple(sorted(names, key=lambda name: as_number(name) or 0.0) if numeric else names)


def check_classes(classes: Sequence[str], where: str) -> None:
    """Refuse a single class, and two that only their case tells apart.

    Raises:
        UserError: there is nothing to tell apart.
    """
    if len(classes) < 2:
        raise UserError(f"{where} has {len(classes)} classes; expected two at least")
    folded: dict[str, str] = {}
    for name in classes:
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise UserError(f"{where}: the classes '{other}' and '{name}' differ in case only")


def mixed(values: Collection[Any]) -> str | None:
    """The first that is no number among many that are; empty where all are, None where it is classes.

    >>> mixed([*range(30), "inf"]), mixed([*range(30), "oops"]), mixed("abc")
    ('', "'oops'", None)
    """
    others = [value for value in values if not reads_as_number(value)]
    if len(values) <= FEW or 2 * len(others) > len(values):
        return None
    return min(map(repr, others), default="")


def mixture(name: str, found: str) -> UserError:
    """What to say of a target that is mostly numbers."""
    return UserError(
        f"data.target: column '{name}' holds numbers and {found}; mend it, or set data.task to 'regression' to have "
        "every such cell told with its place, or to 'classification' where they are names"
    )


def reads_as_number(value: Any) -> bool:
    """True for what is written as a number, an infinite one too, which is refused when it is read."""
    try:
        float(value)
    except (ValueError, TypeError):
        return False
    return not isinstance(value, bool)


@dataclass(frozen=True)
class Learnt:
    """The targets: their columns, and the classes where they are classes."""

    names: tuple[str, ...]
    task: Task
    classes: tuple[str, ...] = ()

    @classmethod
    def found(cls, names: Sequence[str], seen: Sequence[Iterable[Any]], task: str) -> Learnt:
        """What the different values of each target column make of the task, where `task` is 'auto'.

        Raises:
            UserError: no targets, several that are classes, or too few classes.
        """
        if not names:
            raise UserError("data.target: there is no column left to learn")
        values = [{value for value in column if not is_missing(value)} for column in seen]
        odd = {name: mixed(column) for name, column in zip(names, values, strict=True)}
        if task == "regression" or (task == "auto" and all(found == "" for found in odd.values())):
            return cls(tuple(names), "regression")
        for name, found in odd.items():
            if task == "auto" and found:
                raise mixture(name, found)
        if len(names) > 1:
            raise UserError(
                f"data.target names {len(names)} columns ({', '.join(names)}), which are not all numbers of more "
                f"than {FEW} different values; a classification has one target"
            )
        classes = in_order({category(value) for value in values[0]})
        check_classes(classes, f"data.target: '{names[0]}'")
        return cls(tuple(names), "classification", classes)

    @property
    def width(self) -> int:
        """Values to learn of a sample, 0 where it is a class."""
        return 0 if self.classes else len(self.names)

    @property
    def column(self) -> str:
        """The name of the column that holds them."""
        return "label" if self.classes else "target"

    def read(self, cells: Sequence[Any]) -> Any:
        """One sample's class number, or its values.

        Raises:
            BadInput: a value is missing, is no number, or no known class.
        """
        for name, cell in zip(self.names, cells, strict=True):
            if is_missing(cell):
                raise BadInput(f"the target '{name}' is missing")
        if self.classes:
            if (label := category(cells[0])) not in self.classes:
                raise BadInput(f"the class '{label}' is none of {', '.join(self.classes)}")
            return self.classes.index(label)
        found = [as_number(cell) for cell in cells]
        for name, cell, value in zip(self.names, cells, found, strict=True):
            if value is None:
                raise BadInput(f"the target '{name}' holds {cell!r}; expected a finite number")
        return found

    def stack(self, values: Sequence[Any]) -> np.ndarray:
        """What `read` gave for n samples: (n,) int64, or (n, M) float32."""
        if self.classes:
            return np.array(values, np.int64)
        return np.array(values, np.float32).reshape(len(values), self.width)


def group_of(value: Any) -> int:
    """A group's number, from its name alone."""
    name = "" if is_missing(value) else category(value)
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def split_of(value: Any) -> int:
    """A split's number.

    Raises:
        BadInput: it is none of their names.
    """
    if (name := str(value).strip().lower()) not in SPLITS:
        raise BadInput(f"the split is {value!r}; expected train, val or test")
    return SPLITS[name]


def moment_of(value: Any) -> float:
    """A time as a number, days since 1970 where it is a date.

    Raises:
        BadInput: it is neither a number nor an ISO 8601 date.
    """
    try:
        return found if (found := as_number(value)) is not None else days(value)
    except (ValueError, TypeError):
        raise BadInput(f"the time is {value!r}; expected a number or an ISO 8601 date") from None


SPLITTING: dict[str, tuple[Column, Callable[[Any], Any]]] = {
    "group": (Column(name="group", role="group", dtype="<i8"), group_of),
    "time": (Column(name="time", role="time", dtype="<f8"), moment_of),
    "begin": (Column(name="begin", role="begin", dtype="<f8"), moment_of),
    "split": (Column(name="split", role="split", dtype="|u1"), split_of),
}
