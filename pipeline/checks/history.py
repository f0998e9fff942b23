"""Checks against the data that was accepted last: what is gone, what is new, what has shifted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.checks.findings import Check, Facts, Finding, judged, listed
from pipeline.facts.profiles import ColumnProfile
from serving.inputs.spec import DataSpec

if TYPE_CHECKING:
    from pipeline.limits import Validate


def typed(spec: DataSpec) -> dict[str, str]:
    """What every column of the raw data holds: the fields of a table, the channels of a series, what is learnt."""
    found = {}
    if spec.image is not None:
        found["image"] = f"{spec.image.channels} x {spec.image.height} x {spec.image.width}"
    if spec.table is not None:
        found = {field.name: field.kind for field in spec.table.fields}
    if spec.series is not None:
        found = dict.fromkeys(spec.series.channels, "number")
    learnt = spec.targets if spec.task == "regression" else ()
    return found | dict.fromkeys(learnt, "target")


def columns(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Columns or channels that are missing, new, or of another kind."""
    assert facts.earlier is not None
    levels, before, now = limits.levels, typed(facts.earlier.spec), typed(facts.spec)
    if gone := [name for name in before if name not in now]:
        message = f"columns of the data accepted last that are missing: {listed(gone)}"
        yield from judged(levels.missing_column, "missing column", message, count=len(gone))
    if new := [name for name in now if name not in before]:
        message = f"columns that were not in the data accepted last: {listed(new)}"
        yield from judged(levels.new_column, "new column", message, count=len(new))
    if other := [name for name in now if before.get(name, now[name]) != now[name]]:
        shown = ", ".join(f"'{name}' (was {before[name]}, is {now[name]})" for name in other[:8])
        message = f"columns that hold something else than in the data accepted last: {shown}"
        yield from judged(levels.retyped_column, "retyped column", message, count=len(other))


def classes(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Classes that vanished, or are new."""
    assert facts.earlier is not None
    before, now = facts.earlier.spec.classes, facts.spec.classes
    if gone := [name for name in before if name not in now]:
        message = f"classes of the data accepted last without a sample: {listed(gone)}"
        yield from judged(limits.levels.vanished_class, "vanished class", message, count=len(gone))
    if new := [name for name in now if name not in before]:
        message = f"classes that were not in the data accepted last: {listed(new)}"
        yield from judged(limits.levels.new_class, "new class", message, count=len(new))


def pairs(facts: Facts) -> Iterator[tuple[ColumnProfile, ColumnProfile]]:
    """Columns and measures of one kind, as they were and as they are."""
    assert facts.earlier is not None
    for now in facts.profile.columns:
        before = facts.earlier.column(now.name)
        if before is not None and (before.kind == "category") == (now.kind == "category"):
            yield before, now


def categories(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Values of a category that were never seen before."""
    for before, now in pairs(facts):
        new = [name for name in now.counts if name not in before.counts]
        if new and now.role == "column":
            rows = sum(now.counts[name] for name in new)
            where = f"in {rows} of {now.rows} rows"
            message = f"column '{now.name}' holds categories never seen before, {where}: {listed(new)}"
            yield from judged(limits.levels.new_category, "new category", message, count=rows)


def ranges(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Numbers far outside of what they were; measures that never varied are left to `drift`."""
    for before, now in pairs(facts):
        still = before.role == "measure" and before.distinct < 2
        if still or not before.quantiles or not now.quantiles:
            continue
        room = limits.range_margin * (before.high - before.low)
        if now.low < before.low - room or now.high > before.high + room:
            message = (
                f"column '{now.name}' ranges from {now.low:g} to {now.high:g}; it was {before.low:g} to "
                f"{before.high:g}, and {limits.range_margin:g} times that range beyond it are usual"
            )
            yield from judged(limits.levels.out_of_range, "out of range", message, limit=limits.range_margin)


def drift(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Columns whose distribution has shifted, by more than chance and by enough to matter."""
    found = {
        name: shift for name, shift in facts.shifts.items()
        if shift.chance <= limits.drift_rate and shift.effect > limits.drift_effect
    }  # fmt: skip
    if found:
        worst = sorted(found, key=lambda name: -found[name].effect)
        shown = ", ".join(f"'{name}' ({found[name].effect:.2f})" for name in worst[:8])
        message = (
            f"{len(found)} of {len(facts.shifts)} columns and measures shifted since the data accepted last: "
            f"{shown}; at most {limits.drift_effect:g} of the samples may lie elsewhere"
        )
        yield from judged(
            limits.levels.drift, "drift", message, count=len(found), value=round(found[worst[0]].effect, 6),
            limit=limits.drift_effect,
        )  # fmt: skip


HISTORY: tuple[Check, ...] = (columns, classes, categories, ranges, drift)
