"""What a data set is like, small enough to keep: a profile of every column, held against that of the last accepted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from pipeline.core.dataset import Dataset
from pipeline.facts.measures import Measure
from serving.inputs.spec import DataSpec, Kind

STEPS = (
    200  # a sketch of numbers holds the quantiles at this many equal steps: their shares are known to 0.5 %
)
UNKNOWN = ""  # the category that stands for a missing or an unknown one
Role = Literal["column", "measure", "target"]


class ColumnProfile(BaseModel, extra="forbid", frozen=True):
    """A column of numbers by its quantiles from lowest to highest, or of categories by their counts.

    A `measure` is no column of the data, but what was measured of every sample, such as its length. `alone` is how
    well it tells the target by itself: the AUC, or the share of the variance, 0 to 1. `sorted` says of numbers that
    they rise, or fall, from row to row.
    """

    name: str
    role: Role
    kind: Kind
    rows: int
    missing: int
    distinct: int
    mean: float | None = None
    deviation: float | None = None
    whole: bool = False
    sorted: bool = False
    quantiles: tuple[float, ...] = ()
    counts: dict[str, int] = {}
    alone: float | None = None

    @property
    def missing_share(self) -> float:
        """Missing values among all, 0 to 1."""
        return self.missing / max(self.rows, 1)

    @property
    def low(self) -> float:
        """The lowest number."""
        return self.quantiles[0]

    @property
    def high(self) -> float:
        """The highest number."""
        return self.quantiles[-1]


class Profile(BaseModel, extra="forbid", frozen=True):
    """A data set in numbers; `name` is the project's, `digest` tells whether two are of the same data."""

    name: str
    digest: str
    spec: DataSpec
    samples: int
    columns: tuple[ColumnProfile, ...]

    def column(self, name: str) -> ColumnProfile | None:
        """The profile of one column."""
        return next((column for column in self.columns if column.name == name), None)

    def comparable(self, other: Profile) -> bool:
        """True where both are of one project, source, modality and task."""
        mine, its = self.spec, other.spec
        return (self.name, mine.source, mine.modality, mine.task) == (
            other.name, its.source, its.modality, its.task
        )  # fmt: skip


class History(BaseModel, extra="forbid", frozen=True):
    """What `profile.json` holds: the data that was accepted, and the data that it was held against."""

    accepted: Profile
    earlier: Profile | None = None


def short(values: np.ndarray | float) -> list[float]:
    """Numbers with seven significant digits, as many as float32 holds."""
    return [float(f"{value:.7g}") for value in np.atleast_1d(values).tolist()]


def profile_of(measure: Measure, role: Role, alone: float | None = None) -> ColumnProfile:
    """The profile of values (N,): codes of categories, or numbers with NaN for what is missing."""
    values, rows = measure.values, len(measure.values)
    if measure.kind == "category":
        names = (UNKNOWN, *measure.categories)
        held = np.bincount(values.astype(np.int64), minlength=len(names))
        counts = {name: int(count) for name, count in zip(names, held, strict=True) if count}
        missing = counts.pop(UNKNOWN, 0)
        return ColumnProfile(
            name=measure.name, role=role, kind="category", rows=rows, missing=missing,
            distinct=len(counts), counts=counts, alone=alone,
        )  # fmt: skip
    held = values[~np.isnan(values)].astype(np.float64)
    there, steps = np.sort(held), np.diff(held)
    found = ColumnProfile(
        name=measure.name, role=role, kind=measure.kind, rows=rows, missing=rows - len(there),
        distinct=0, alone=alone,
    )  # fmt: skip
    if not len(there):
        return found
    shares = np.linspace(0, 1, STEPS + 1)
    update = {
        "distinct": int((np.diff(there) > 0).sum()) + 1,
        "mean": short(there.mean())[0],
        "deviation": short(there.std())[0],
        "whole": bool((there == np.round(there)).all()),
        "sorted": bool((steps >= 0).all() or (steps <= 0).all()),
        "quantiles": tuple(short(np.quantile(there, shares, method="inverted_cdf"))),
    }
    return found.model_copy(update=update)


def target_profiles(dataset: Dataset) -> list[ColumnProfile]:
    """The profiles of what is learnt: the classes, or every target of a regression."""
    spec, targets = dataset.spec, dataset.targets
    if spec.classes:
        label = Measure(spec.target.name, targets.astype(np.float32) + 1, "category", spec.classes)
        return [profile_of(label, "target")]
    return [profile_of(Measure(name, targets[:, at]), "target") for at, name in enumerate(spec.targets)]


def digest_of(dataset: Dataset) -> str:
    """SHA-256 of what the samples are and what is to be learnt of them."""
    found = hashlib.sha256(dataset.spec.model_dump_json().encode())
    for chunk in dataset.chunks(["id", dataset.spec.target.name]):
        for rows in chunk.values():
            found.update(rows.tobytes())
    return found.hexdigest()


def gather(name: str, dataset: Dataset, columns: Sequence[ColumnProfile]) -> Profile:
    """The profile of a data set from those of its columns and measures."""
    return Profile(
        name=name, digest=digest_of(dataset), spec=dataset.spec, samples=len(dataset),
        columns=(*columns, *target_profiles(dataset)),
    )  # fmt: skip


def earlier_than(profile: Profile, path: Path) -> Profile | None:
    """The last accepted profile of other data, read from the `profile.json` that a run before left.

    A run on the same data is held against what the last one was, so that it gives the same report.
    """
    if not path.exists():
        return None
    try:
        history = History.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError:
        print(f"validate: {path} is of another version and not compared with")
        return None
    found = history.earlier if history.accepted.digest == profile.digest else history.accepted
    return found if found is not None and found.comparable(profile) else None
