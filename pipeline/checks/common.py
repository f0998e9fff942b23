"""Checks of data of any modality: classes, copies, labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pipeline.checks.findings import (
    EXAMPLES,
    Check,
    Example,
    Facts,
    Finding,
    breadth,
    judged,
    share,
    some,
    unusual,
)

if TYPE_CHECKING:
    from pipeline.limits import Validate


def few_classes(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Fewer than two classes, or a class of too few samples to be split and judged."""
    classes, least = facts.spec.classes, limits.min_per_class
    if facts.spec.task not in ("classification", "generation"):
        return
    if len(classes) < 2 and facts.spec.task == "classification":
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
    """The largest class against the smallest that has any sample; anomalies are meant to be rare."""
    if facts.spec.task not in ("classification", "generation"):
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
    """Samples whose content repeats an earlier one, and those whose copies are labelled otherwise.

    Equal rows of a table need be no copies of one thing, so there these are warnings.
    """
    natural = facts.spec.modality == "table"
    exact, total = facts.duplicates.exact, len(facts.labels)
    copies = np.flatnonzero(exact != np.arange(total))
    shown = members(exact, copies)
    yield from share(
        "duplicates",
        len(copies),
        total,
        1 if natural else limits.max_duplicates,
        "are exact copies of others",
        shown,
    )
    rows = np.flatnonzero(mixed(exact, facts.labels))
    what = "have an exact copy in another class"
    yield from share(
        "duplicate conflicts",
        len(rows),
        total,
        1 if natural else limits.max_conflicts,
        what,
        members(exact, rows),
    )


def near_copies(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Distinct samples that picture the same, those labelled otherwise, and a search that was cut short."""
    found, total = facts.duplicates, len(facts.labels)
    natural = facts.spec.modality == "table"
    order = np.argsort(-found.similarity, kind="stable")[:EXAMPLES]
    pairs = (
        Example(rows=tuple(map(int, found.pairs[at])), note=f"similarity {found.similarity[at]:.4f}")
        for at in order
    )
    distinct = np.flatnonzero(found.exact == np.arange(total))
    count = int((found.groups[distinct] != distinct).sum())
    yield from share(
        "near duplicates",
        count,
        total,
        1 if natural else limits.max_near_duplicates,
        "nearly repeat others",
        pairs,
    )
    rows = np.flatnonzero(mixed(found.groups, facts.labels) & ~mixed(found.exact, facts.labels))
    what = "have a near copy in another class"
    shown = members(found.groups, rows)
    yield from share(
        "near conflicts", len(rows), total, 1 if natural else limits.max_near_conflicts, what, shown
    )
    if found.unsearched:
        message = f"near duplicates were not all searched: {found.unsearched}"
        yield Finding(level="warning", check="near duplicates", message=message, count=0)


def one_value(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Nothing in the whole data set differs from anything else."""
    del limits
    if len(facts.labels) > 1 and not facts.duplicates.exact.any():
        message = f"all {len(facts.labels)} samples are the same; there is nothing to learn from"
        yield Finding(level="error", check="one value", message=message, count=len(facts.labels))


def leakage(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Single columns that tell the target by themselves: often it was put into them."""
    scores = {each.name: each.alone for each in facts.profile.columns if each.alone is not None}
    telling = sorted((name for name in scores if scores[name] >= limits.leak_score), key=lambda n: -scores[n])
    if telling:
        names = ", ".join(f"'{name}' ({scores[name]:.3f})" for name in telling[:8])
        how = "AUC" if facts.spec.classes else "R2 of ranks"
        named = (
            "if not, name them in data.drop" if facts.spec.table else "if not, take them out of the raw data"
        )
        message = (
            f"columns or measures that tell the target nearly alone ({how}): {names}; less than "
            f"{limits.leak_score:g} is usual; would they be known when the model is asked? {named}"
        )
        yield from judged(
            limits.levels.leakage, "leakage", message, count=len(telling), value=scores[telling[0]],
            limit=limits.leak_score,
        )  # fmt: skip


def labels(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Labels that a model trained without them holds for wrong."""
    found, classes = facts.suspects, facts.spec.classes
    if found is None:
        return
    examples = (
        Example(rows=(int(row),), note=f"rather {classes[other]} ({chance:.0%})")
        for row, other, chance in zip(found.rows, found.likely, found.chance, strict=True)
    )
    what = "seem to be labelled wrongly"
    yield from share(
        "label errors", len(found.rows), len(facts.labels), limits.max_label_errors, what, examples
    )


def targets(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Targets of a regression: one value for all, one for many, values far from the others.

    Of a forecast only the first step of each channel, as the others are the same values later.
    """
    horizon = facts.spec.series.horizon if facts.spec.series else 0
    for at in range(0, facts.targets.shape[1], horizon or 1):
        name, values = facts.spec.targets[at], facts.targets[:, at].astype(np.float64)
        held, counts = np.unique(values, return_counts=True)
        if len(held) < 2:
            message = f"the target '{name}' is {held[0]:g} for every sample; there is nothing to learn"
            yield Finding(level="error", check="one target", message=message, count=len(values))
            continue
        top = int(counts.argmax())
        tied = counts[top] / len(values)
        if tied > limits.warn_ties:
            message = f"the target '{name}' is {held[top]:g} for {tied:.1%} of the samples"
            rows = np.flatnonzero(values == held[top])
            yield Finding(
                level="warning", check="ties", message=message, count=int(counts[top]), value=round(tied, 6),
                limit=limits.warn_ties, examples=some(rows),
            )  # fmt: skip
        rows = np.arange(len(values))
        yield from unusual(f"target {name}", facts, limits, rows, values, breadth(values) or 1e-12)


COMMON: tuple[Check, ...] = (
    few_classes, imbalance, targets, one_value, exact_copies, near_copies, leakage, labels
)  # fmt: skip
