"""What a check looks at and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel

from pipeline.duplicates.search import Duplicates
from pipeline.facts.profiles import Profile
from serving.inputs.spec import DataSpec

if TYPE_CHECKING:
    from pipeline.limits import Validate

EXAMPLES = 12  # examples kept with a finding; all rows are counted
Level = Literal["ignore", "warning", "error"]


class Example(BaseModel, extra="forbid", frozen=True):
    """One or more rows that show a finding; `origins` says where each came from."""

    rows: tuple[int, ...]
    note: str = ""
    origins: tuple[str, ...] = ()


class Finding(BaseModel, extra="forbid", frozen=True):
    """One thing found: `value` is what was measured and `limit` what it was held against."""

    level: Literal["error", "warning"]
    check: str
    message: str
    count: int
    value: float | None = None
    limit: float | None = None
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Phrase:
    """Words that many texts hold alike: `rows` are those looked at that do, of `looked` in all."""

    words: str
    rows: np.ndarray
    looked: int


@dataclass(frozen=True)
class Shift:
    """How a column differs from the earlier data: `effect` 0 to 1, and its `chance` without any change."""

    effect: float
    chance: float


@dataclass(frozen=True)
class Suspects:
    """Samples whose label a model, trained without them, holds for wrong: `rows` (S,), most suspect first."""

    rows: np.ndarray
    likely: np.ndarray
    chance: np.ndarray


@dataclass(frozen=True)
class Facts:
    """What the checks look at: `labels` (N,) int64, `targets` of a regression (N, M), or (N, 0).

    `measures` are values of every sample, each (N,) float32. For images these are `brightness` and `contrast`, the
    mean and the standard deviation of an image in grey levels of 0 to 255. `profile` holds every column and
    measure in small, `earlier` that of the data accepted last.
    """

    spec: DataSpec
    labels: np.ndarray
    targets: np.ndarray
    measures: dict[str, np.ndarray]
    profile: Profile
    duplicates: Duplicates
    earlier: Profile | None = None
    shifts: dict[str, Shift] = field(default_factory=dict)
    phrase: Phrase | None = None
    suspects: Suspects | None = None

    @property
    def counts(self) -> np.ndarray:
        """Samples of every class, (K,) int64."""
        return np.bincount(self.labels, minlength=len(self.spec.classes))


Check = Callable[[Facts, "Validate"], Iterable[Finding]]


def share(
    check: str, count: int, total: int, limit: float, what: str, examples: Iterable[Example]
) -> Iterator[Finding]:
    """One finding where `count` of `total` rows are affected: an error above the fraction `limit`."""
    if count:
        value = count / total
        level: Literal["error", "warning"] = "error" if value > limit else "warning"
        most = f"; at most {limit:.2%} may" if limit < 1 else ""
        message = f"{count} of {total} samples ({value:.2%}) {what}{most}"
        yield Finding(
            level=level, check=check, message=message, count=count, value=round(value, 6), limit=limit,
            examples=tuple(examples)[:EXAMPLES],
        )  # fmt: skip


def judged(level: Level, check: str, message: str, **more: Any) -> Iterator[Finding]:
    """One finding at the level that a parameter gives it, none where it is ignored."""
    if level != "ignore":
        yield Finding(level=level, check=check, message=message, **{"count": 1, **more})


def some(rows: np.ndarray, notes: Iterable[str] = ()) -> tuple[Example, ...]:
    """The first of the rows as examples, each with its note if there are any."""
    said = list(notes)
    return tuple(
        Example(rows=(int(row),), note=said[at] if said else "") for at, row in enumerate(rows[:EXAMPLES])
    )


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names in quotes, the first of them.

    >>> listed("abc", most=2)
    "'a', 'b' and 1 more"
    """
    quoted = [f"'{name}'" for name in names]
    more = f" and {len(quoted) - most} more" if len(quoted) > most else ""
    return ", ".join(quoted[:most]) + more


def robust_scores(values: np.ndarray, floor: float = 1.0) -> np.ndarray:
    """Distance from the median in robust standard deviations, (N,) to (N,), signed.

    The deviation is 1.4826 MAD (Hampel 1974). Where more than half of the values are equal the MAD is 0 and
    1.2533 times the mean absolute deviation takes its place; it is never below `floor`, in the values' unit,
    so that a hair's breadth is no anomaly among equals.
    """
    from_median = values.astype(np.float64) - np.median(values)
    distance = np.abs(from_median)
    deviation = 1.4826 * np.median(distance) or 1.2533 * distance.mean()
    scores: np.ndarray = from_median / max(deviation, floor)
    return scores


def unusual(
    name: str,
    facts: Facts,
    limits: Validate,
    rows: np.ndarray,
    values: np.ndarray,
    unit: float,
    ratio: bool = False,
) -> Iterator[Finding]:
    """Of some `rows` (n,) those whose values (n,) are far from what is usual, or so many times it (`ratio`).

    `unit` is the least deviation, of the values or of their logarithms to base 2.
    """
    compared = np.log2(values.clip(1)) if ratio else values
    scores = robust_scores(compared, unit) if len(rows) else np.zeros(0)
    order = np.argsort(-np.abs(scores), kind="stable")
    order = order[np.abs(scores[order]) > limits.outlier_score]
    examples = (
        Example(rows=(int(rows[at]),), note=f"{name} {values[at]:.4g}, {scores[at]:+.1f} deviations")
        for at in order[:EXAMPLES]
    )
    what = f"have an unusual {name}, beyond {limits.outlier_score:g} robust deviations"
    total = len(facts.labels)
    yield from share(f"{name} outliers", len(order), total, limits.max_outliers, what, examples)
