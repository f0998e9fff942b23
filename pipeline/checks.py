"""What can be wrong with a data set: pure checks of its measured facts, by modality in `CHECKS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel

from pipeline.core.dataset import Dataset
from pipeline.duplicates import Duplicates
from serving.inputs.spec import DataSpec, Modality

if TYPE_CHECKING:
    from pipeline.validate import Validate

EXAMPLES = 12  # examples kept with a finding; all rows are counted


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
class Facts:
    """What the checks look at: `labels` (N,) int64 and for every row the `measures`, each (N,) float32.

    `low` and `high` are the extremes of the whole content. For images the measures are `brightness` and
    `contrast`, the mean and the standard deviation of an image in grey levels of 0 to 255.
    """

    spec: DataSpec
    labels: np.ndarray
    measures: dict[str, np.ndarray]
    low: float
    high: float
    duplicates: Duplicates

    @property
    def counts(self) -> np.ndarray:
        """Samples of every class, (K,) int64."""
        return np.bincount(self.labels, minlength=len(self.spec.classes))


Check = Callable[[Facts, "Validate"], Iterable[Finding]]


def schema(dataset: Dataset) -> Iterator[Finding]:
    """Find where the folder is not what its `spec.json` says; nothing else can be checked then."""

    def error(message: str, count: int, rows: Iterable[int] = ()) -> Finding:
        examples = tuple(Example(rows=(int(row),)) for row in rows)
        return Finding(level="error", check="schema", message=message, count=count, examples=examples)

    rows: dict[str, int] = {}
    for column in dataset.spec.columns:
        try:
            array = dataset.column(column.name)
        except (OSError, ValueError) as problem:
            yield error(f"column '{column.name}' cannot be read: {problem}", 1)
            continue
        rows[column.name] = len(array) if column.ragged or array.ndim else 0
        array = array.values if column.ragged else array
        if array.dtype != np.dtype(column.dtype) or array.shape[1:] != column.shape:
            found, expected = f"{array.dtype.str} {array.shape[1:]}", f"{column.dtype} {column.shape}"
            yield error(f"column '{column.name}' holds rows of {found}; expected {expected}", 1)
        elif column.role == "target" and dataset.spec.classes:
            labels = np.asarray(array)
            known = len(dataset.spec.classes)
            wrong = np.flatnonzero((labels < 0) | (labels >= known))
            if len(wrong):
                message = f"{len(wrong)} labels are outside the {known} classes; expected 0 to {known - 1}"
                yield error(message, len(wrong), wrong[:EXAMPLES])
    if len(set(rows.values())) > 1:
        yield error(f"the columns differ in length: {rows}", len(rows))
    elif not any(rows.values()):
        yield error("there are no rows", 0)


def share(
    check: str, count: int, total: int, limit: float, what: str, examples: Iterable[Example]
) -> Iterator[Finding]:
    """One finding where `count` of `total` rows are affected: an error above the fraction `limit`."""
    if count:
        value = count / total
        level: Literal["error", "warning"] = "error" if value > limit else "warning"
        message = f"{count} of {total} samples ({value:.2%}) {what}; at most {limit:.2%} may"
        yield Finding(
            level=level, check=check, message=message, count=count, value=round(value, 6), limit=limit,
            examples=tuple(examples)[:EXAMPLES],
        )  # fmt: skip


def few_classes(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Fewer than two classes, or a class of too few samples to be split and judged."""
    classes, least = facts.spec.classes, limits.min_per_class
    if facts.spec.task != "classification":
        return
    if len(classes) < 2:
        message = f"there is {len(classes)} class {list(classes)}; a classifier needs at least 2"
        yield Finding(level="error", check="classes", message=message, count=1, value=len(classes), limit=2)
    for label in np.flatnonzero(facts.counts < least):
        count = int(facts.counts[label])
        message = f"class '{classes[label]}' has {count} samples; expected at least {least} (min_per_class)"
        rows = np.flatnonzero(facts.labels == label)[:EXAMPLES]
        examples = tuple(Example(rows=(int(row),)) for row in rows)
        yield Finding(
            level="error", check="class size", message=message, count=count, value=count, limit=least,
            examples=examples,
        )  # fmt: skip


def imbalance(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """The largest class against the smallest that has any sample."""
    if not facts.spec.classes:
        return
    counts = facts.counts
    most, least = int(counts.argmax()), int(np.where(counts > 0, counts, counts.max() + 1).argmin())
    ratio = float(counts[most] / counts[least])
    if ratio > limits.warn_imbalance:
        too_much = ratio > limits.max_imbalance
        classes = facts.spec.classes
        message = (
            f"class '{classes[most]}' has {ratio:.1f} times the samples of class '{classes[least]}' "
            f"({counts[most]} to {counts[least]}); at most {limits.max_imbalance:g} times may"
        )
        yield Finding(
            level="error" if too_much else "warning", check="imbalance", message=message,
            count=int(counts[least]), value=round(ratio, 3),
            limit=limits.max_imbalance if too_much else limits.warn_imbalance,
        )  # fmt: skip


def mixed(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which rows belong to a group whose labels differ: `groups` (N,) of first rows to bool (N,).

    >>> mixed(np.array([0, 1, 0]), np.array([3, 3, 4])).tolist()
    [True, False, True]
    """
    differs = np.zeros(len(groups), bool)
    differs[groups[labels != labels[groups]]] = True
    rows: np.ndarray = differs[groups]
    return rows


def members(groups: np.ndarray, rows: np.ndarray) -> Iterator[Example]:
    """The groups that `rows` belong to, each as one example of its first four rows."""
    for group in np.unique(groups[rows])[:EXAMPLES]:
        same = np.flatnonzero(groups == group)
        yield Example(rows=tuple(map(int, same[:4])), note=f"{len(same)} samples")


def exact_copies(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Samples whose content repeats an earlier one, and those whose copies are labelled otherwise."""
    exact, total = facts.duplicates.exact, len(facts.labels)
    copies = np.flatnonzero(exact != np.arange(total))
    shown = members(exact, copies)
    yield from share(
        "duplicates", len(copies), total, limits.max_duplicates, "are exact copies of others", shown
    )
    rows = np.flatnonzero(mixed(exact, facts.labels))
    what = "have an exact copy in another class"
    yield from share(
        "duplicate conflicts", len(rows), total, limits.max_conflicts, what, members(exact, rows)
    )


def near_copies(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Distinct samples that picture the same, those labelled otherwise, and a search that was cut short."""
    found, total = facts.duplicates, len(facts.labels)
    order = np.argsort(-found.similarity, kind="stable")[:EXAMPLES]
    pairs = (
        Example(rows=tuple(map(int, found.pairs[at])), note=f"similarity {found.similarity[at]:.4f}")
        for at in order
    )
    distinct = np.flatnonzero(found.exact == np.arange(total))
    count = int((found.groups[distinct] != distinct).sum())
    yield from share(
        "near duplicates", count, total, limits.max_near_duplicates, "nearly repeat others", pairs
    )
    rows = np.flatnonzero(mixed(found.groups, facts.labels) & ~mixed(found.exact, facts.labels))
    what = "have a near copy in another class"
    shown = members(found.groups, rows)
    yield from share("near conflicts", len(rows), total, limits.max_near_conflicts, what, shown)
    if found.unsearched:
        message = f"near duplicates were not all searched: {found.unsearched}"
        yield Finding(level="warning", check="near duplicates", message=message, count=0)


def one_value(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Nothing in the whole data set differs from anything else."""
    del limits
    if facts.low == facts.high:
        message = f"the whole content is one value ({facts.low:g}); there is nothing to learn from"
        yield Finding(level="error", check="one value", message=message, count=len(facts.labels))


def constant(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Images of one grey level."""
    rows = np.flatnonzero(facts.measures["contrast"] == 0)
    levels = facts.measures["brightness"]
    examples = (Example(rows=(int(row),), note=f"level {levels[row]:.0f}") for row in rows[:EXAMPLES])
    total = len(facts.labels)
    yield from share("constant", len(rows), total, limits.max_constant, "are one flat colour", examples)


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


def outliers(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Rows with a measure far from what is usual; flat images have their own check."""
    usual = np.flatnonzero(facts.measures["contrast"] > 0)
    for name, values in facts.measures.items():
        scores = robust_scores(values[usual]) if len(usual) else np.zeros(0)
        order = np.argsort(-np.abs(scores), kind="stable")
        order = order[np.abs(scores[order]) > limits.outlier_score]
        examples = (
            Example(
                rows=(int(usual[at]),), note=f"{name} {values[usual[at]]:.0f}, {scores[at]:+.1f} deviations"
            )
            for at in order[:EXAMPLES]
        )
        what = f"have an unusual {name}, beyond {limits.outlier_score:g} robust deviations"
        yield from share(f"{name} outliers", len(order), len(values), limits.max_outliers, what, examples)


COMMON: tuple[Check, ...] = (few_classes, imbalance, one_value, exact_copies, near_copies)
CHECKS: dict[Modality, tuple[Check, ...]] = {
    "image": (*COMMON, constant, outliers), "table": COMMON, "series": COMMON, "text": COMMON,
}  # fmt: skip
