"""Checks of series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pipeline.checks.findings import Check, Facts, Finding, listed, share, some, unusual
from pipeline.facts.measures import SERIES

if TYPE_CHECKING:
    from pipeline.limits import Validate

MEAN, LOWEST, HIGHEST, MISSING = SERIES


def channels(facts: Facts) -> tuple[str, ...]:
    """The names of the channels."""
    assert facts.spec.series is not None
    return facts.spec.series.channels


def missing(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Channels with many missing steps."""
    held = {name: float(facts.measures[f"{name} {MISSING}"].mean()) for name in channels(facts)}
    for level, limit, below in (
        ("error", limits.max_missing, 1.0), ("warning", limits.warn_missing, limits.max_missing)
    ):  # fmt: skip
        found = {name: value for name, value in held.items() if limit < value <= below}
        if found:
            shown = ", ".join(f"'{name}' ({value:.1%})" for name, value in list(found.items())[:8])
            yield Finding(
                level=level, check="missing", count=len(found), value=max(found.values()), limit=limit,
                message=f"channels that miss more than {limit:.0%} of their steps: {shown}",
            )  # fmt: skip


def constant_channels(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Channels that hold one value, or none, in every step of every series."""
    found = []
    for name in channels(facts):
        low, high = facts.measures[f"{name} {LOWEST}"], facts.measures[f"{name} {HIGHEST}"]
        if np.isnan(low).all() or np.nanmin(low) == np.nanmax(high):
            found.append(name)
    if found:
        value = len(found) / len(channels(facts))
        yield Finding(
            level="error" if value > limits.max_constant_columns else "warning", check="constant channels",
            count=len(found), value=round(value, 6), limit=limits.max_constant_columns,
            message=f"channels of one value, or of none: {listed(found)}; data.drop leaves them out",
        )  # fmt: skip


def flat(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Series in which no channel moves."""
    spans = [
        facts.measures[f"{name} {HIGHEST}"] - facts.measures[f"{name} {LOWEST}"] for name in channels(facts)
    ]
    rows = np.flatnonzero((np.nan_to_num(np.stack(spans)) == 0).all(axis=0))
    what = "do not move in any channel"
    yield from share("constant", len(rows), len(facts.labels), limits.max_constant, what, some(rows))


def outliers(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Series far longer or shorter than the others, by the ratio, and those with values far from the others'."""
    rows = np.arange(len(facts.labels))
    yield from unusual("length", facts, limits, rows, facts.measures["length"], 0.1, ratio=True)
    for name in channels(facts):
        values = facts.measures[f"{name} {MEAN}"]
        there = np.flatnonzero(~np.isnan(values))
        if len(there):
            yield from unusual(f"{name} {MEAN}", facts, limits, there, values[there], 1e-12)


SERIES_CHECKS: tuple[Check, ...] = (missing, constant_channels, flat, outliers)
