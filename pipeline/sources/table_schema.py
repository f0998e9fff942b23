"""What the columns of a table hold: found in one pass, memory bounded by the number of different values kept."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.core.dataset import columns_of
from pipeline.core.params import UserError
from pipeline.sources.base import Data
from pipeline.sources.learnt import FEW, SPLITTING, check_classes, in_order, mixture
from pipeline.sources.tablefiles import TableFile, no_rows
from serving.inputs.spec import Column, DataSpec, Kind, TableField, TableInput
from serving.inputs.table import boolean, category, days, is_missing

READ = 4096  # rows read at a time; the schema must not depend on `ingest.chunk`
KEPT = 20_000  # different values of a column that are counted, at least; beyond, the rarest are forgotten


def _number(value: Any) -> None:
    if isinstance(value, bool):
        raise TypeError("a boolean")
    float(value)  # an infinite one is a number too, and refused when it is read


TESTS: dict[Kind, Callable[[Any], object]] = {"number": _number, "boolean": boolean, "date": days}


@dataclass
class Profile:
    """What one column has held so far: how often each different cell, as far as so many are kept."""

    kept: int
    cells: Counter[Any] = field(default_factory=Counter)
    possible: dict[Kind, None] = field(default_factory=lambda: dict.fromkeys(TESTS))
    numbers: int = 0  # of the different values
    others: int = 0
    odd: str = ""  # the first that is no number, and its place
    last: str = ""  # that by which the column was last found to be of a kind no more, and its place
    forgotten: bool = False

    def add(self, values: Sequence[Any], origins: Sequence[str]) -> None:
        """Look at more values."""
        for value, count in Counter(values).items():
            if value in self.cells:
                self.cells[value] += count
            elif not is_missing(value):
                self.cells[value] = count
                self._test(value, values, origins)
        if len(self.cells) > self.kept:
            ordered = sorted(self.cells.items(), key=lambda item: (-item[1], str(item[0])))
            self.cells, self.forgotten = Counter(dict(ordered[: self.kept // 2])), True

    def _test(self, value: Any, values: Sequence[Any], origins: Sequence[str]) -> None:
        for kind in tuple(self.possible):
            if not _passes(kind, value):
                del self.possible[kind]
                self.last = f"{value!r} at {origins[values.index(value)]}"
        if "number" in self.possible or _passes("number", value):
            self.numbers += 1
            return
        self.others += 1
        self.odd = self.odd or f"{value!r} at {origins[values.index(value)]}"

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each category was there; asked for once all is seen."""
        found: Counter[str] = Counter()
        for value, count in self.cells.items():
            found[category(value)] += count
        return found

    @property
    def kind(self) -> Kind:
        """What the column is taken for; 0 and 1 alone are numbers."""
        return next(iter(self.possible), "category")

    @property
    def mixed(self) -> bool:
        """True where a category is made of numbers for the most part."""
        return self.kind == "category" and self.numbers > self.others

    def names(self) -> list[str]:
        """The categories, the most frequent first, then by name."""
        return [name for name, _ in sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))]

    def classes(self) -> tuple[str, ...]:
        """The categories in the order of their names, which for numbers is their size."""
        return in_order(self.counts)


def _passes(kind: Kind, value: Any) -> bool:
    try:
        TESTS[kind](value)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


@dataclass(frozen=True)
class Schema:
    """What a table is: `columns` are the columns behind `group`, `time` and `split`, as far as there are any."""

    spec: DataSpec
    rows: int
    notes: tuple[str, ...]
    columns: Mapping[str, str]


def infer(files: Sequence[TableFile], data: Data, named: Mapping[str, str]) -> Schema:
    """The schema of a table; `named` gives classes other names than they have in the file.

    Raises:
        UserError: a column of `data` is not there, or nothing can be learnt from this table.
    """
    names = files[0].names
    asked = {"group": data.group, "time": data.time, "split": data.split}
    roles = {role: name for role, name in asked.items() if name}
    _check_columns(data, roles, names)
    hidden = {*data.drop, *roles.values(), ""}
    targets = data.target or tuple(name for name in names if name not in hidden)[-1:]
    if not targets:
        raise UserError(f"{files[0].name}: no column is left to learn; see data.target and data.drop")
    profiles, rows = _look(files, [name for name in names if name not in data.drop and name], data)
    fields, notes = _fields(profiles, data, [n for n in names if n not in hidden and n not in targets])
    if names[0] == "":
        notes.insert(0, "the first column has no name and was left out")
    if not fields:
        raise UserError(f"{files[0].name} has no column to learn from beside the target")
    if data.time and profiles[data.time].kind not in ("number", "date"):
        raise UserError(
            f"data.time: column '{data.time}' holds {profiles[data.time].last}; expected numbers or ISO 8601 dates"
        )
    table = TableInput(fields=tuple(fields))
    size = len(table.numbers) + len(table.categories)
    regression = _is_regression(data, targets, profiles)
    shape = Column(name="row", role="input", dtype="<f4", shape=(size,))
    more = [column for role, (column, _) in SPLITTING.items() if role in roles]
    spec = DataSpec(
        modality="table", task="regression" if regression else "classification", source=data.source,
        columns=columns_of(shape, len(targets) if regression else 0, *more), table=table,
        classes=() if regression else _classes(targets[0], profiles[targets[0]], data, named),
        targets=targets if regression else (),
    )  # fmt: skip
    return Schema(spec, rows, tuple(notes), roles if regression else {**roles, "label": targets[0]})


def _check_columns(data: Data, roles: Mapping[str, str], names: Sequence[str]) -> None:
    asked = {"data.target": data.target, "data.drop": data.drop, "data.kinds": tuple(data.kinds)}
    asked |= {f"data.{role}": (name,) for role, name in roles.items()}
    for key, wanted in asked.items():
        for name in wanted:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or list(names)[:10]
                raise UserError(f"{key}: there is no column '{name}'; the nearest are {', '.join(near)}")
    if both := sorted(set(data.target) & {*data.drop, *roles.values()}):
        raise UserError(f"data.target: {both} are named in data.drop, group, time or split too")


def _look(files: Sequence[TableFile], names: list[str], data: Data) -> tuple[dict[str, Profile], int]:
    """A profile of each column, and the number of rows."""
    kept = max(KEPT, 2 * data.max_categories)
    profiles, rows = {name: Profile(kept) for name in names}, 0
    bad: list[str] = []
    for file in files:
        for batch in file.batches(READ, bad):
            rows += len(batch.origins)
            for name, profile in profiles.items():
                profile.add(batch.columns[name], batch.origins)
    if not rows:
        raise no_rows([file.name for file in files], bad)
    return profiles, rows


def _fields(
    profiles: Mapping[str, Profile], data: Data, names: Sequence[str]
) -> tuple[list[TableField], list[str]]:
    """What the model sees, and what is to be told about it."""
    fields, notes = [], []
    for name in names:
        profile = profiles[name]
        if not profile.cells:
            notes.append(f"column '{name}' holds nothing and was left out")
            continue
        kind = data.kinds.get(name, profile.kind)
        if kind != "category":
            fields.append(TableField(name=name, kind=kind))
            continue
        if profile.mixed and name not in data.kinds:
            notes.append(
                f"column '{name}' holds numbers and {profile.odd}, and is taken as a category; mend it, or say "
                f"'{name}: number' in data.kinds to have every such cell told"
            )
        found = profile.names()
        if len(found) > data.max_categories:
            notes.append(
                f"column '{name}' holds more than {data.max_categories} categories (data.max_categories): the "
                f"rarest are taken together; if it names the row, put it in data.drop"
            )
        fields.append(TableField(name=name, kind=kind, categories=tuple(found[: data.max_categories])))
    return fields, notes


def _is_regression(data: Data, targets: Sequence[str], profiles: Mapping[str, Profile]) -> bool:
    found = {name: profiles[name] for name in targets}
    for name, profile in found.items():
        if len(profile.counts) < 2 and not profile.forgotten:
            said = f"one value, {next(iter(profile.counts))!r}" if profile.counts else "nothing"
            raise UserError(f"data.target: column '{name}' holds {said}; there is nothing to learn")
    numbers = all("number" in profile.possible for profile in found.values())
    many = all(len(profile.counts) > FEW or profile.forgotten for profile in found.values())
    if data.task == "regression" or (data.task == "auto" and numbers and many):
        return True
    for name, profile in found.items():
        if data.task == "auto" and profile.mixed and len(profile.counts) > FEW:
            raise mixture(name, profile.odd)
    if len(found) > 1:
        raise UserError(f"data.target: {list(found)} are {len(found)} columns; a classifier learns one")
    return False


def _classes(name: str, profile: Profile, data: Data, named: Mapping[str, str]) -> tuple[str, ...]:
    if len(profile.counts) > data.max_categories or profile.forgotten:
        odd = f" (no regression because of {profile.odd})" if profile.mixed else ""
        raise UserError(
            f"data.target: column '{name}' holds more than {data.max_categories} different values{odd}: too many "
            f"classes; mend it, or set data.task or data.max_categories"
        )
    check_classes(profile.classes(), f"data.target: column '{name}'")
    return tuple(named.get(one, one) for one in profile.classes())
