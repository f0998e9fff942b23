"""How far columns have shifted between two data sets, told from their profiles alone.

Numbers by the two-sample Kolmogorov-Smirnov test, categories by the chi-square test of homogeneity; both grow strict
with the samples, so an effect size stands beside each, and Benjamini and Hochberg's procedure (1995) beside all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.checks.findings import Shift
from pipeline.facts.profiles import UNKNOWN, ColumnProfile, Profile

EXPECTED = 5  # samples of a category that the chi-square test must expect; rarer ones are taken together


def cumulative(column: ColumnProfile, at: np.ndarray) -> np.ndarray:
    """The share of a column's numbers up to each of the points (P,), from its quantiles."""
    held = np.array(column.quantiles)
    below = np.searchsorted(held, at, side="right") - 1
    found: np.ndarray = below.clip(0) / (len(held) - 1) * (below >= 0)
    return found


def of_numbers(before: ColumnProfile, now: ColumnProfile) -> Shift:
    """The largest difference of the two distribution functions, and its chance."""
    from scipy.stats import kstwobign

    points = np.union1d(before.quantiles, now.quantiles)
    effect = float(np.abs(cumulative(before, points) - cumulative(now, points)).max())
    first, second = before.rows - before.missing, now.rows - now.missing
    return Shift(effect, float(kstwobign.sf(effect * np.sqrt(first * second / (first + second)))))


def of_counts(before: dict[str, int], now: dict[str, int]) -> Shift:
    """The share of samples that would have to change their category, and its chance."""
    from scipy.stats import chi2_contingency

    names = sorted(before.keys() | now.keys())
    table = np.array([[held.get(name, 0) for name in names] for held in (before, now)], np.float64)
    totals = table.sum(axis=1, keepdims=True)
    effect = float(np.abs(np.subtract(*(table / totals))).sum() / 2)
    rare = table.sum(axis=0) * totals.min() / totals.sum() < EXPECTED
    table = np.concatenate([table[:, ~rare], table[:, rare].sum(axis=1, keepdims=True)], axis=1)
    table = table[:, table.any(axis=0)]
    if table.shape[1] < 2:
        return Shift(effect, 1.0)
    return Shift(effect, float(chi2_contingency(table, correction=False).pvalue))


def tested(before: ColumnProfile, now: ColumnProfile) -> Iterator[Shift]:
    """What is tested of one column: its values, and whether more or fewer are missing."""
    if now.kind == "category" and before.counts and now.counts:
        yield of_counts(before.counts | {UNKNOWN: before.missing}, now.counts | {UNKNOWN: now.missing})
    elif before.quantiles and now.quantiles:
        yield of_numbers(before, now)
    if before.missing or now.missing:
        counts = [{"missing": each.missing, "there": each.rows - each.missing} for each in (before, now)]
        yield of_counts(*counts)


def shifts(before: Profile, now: Profile) -> dict[str, Shift]:
    """Every column that both have: its greatest effect, and the chance of it, corrected for their number."""
    from scipy.stats import false_discovery_control

    found: list[tuple[str, Shift]] = []
    for column in now.columns:
        other = before.column(column.name)
        if other is not None and (other.kind == "category") == (column.kind == "category"):
            found += [(column.name, shift) for shift in tested(other, column)]
    if not found:
        return {}
    chances = false_discovery_control([shift.chance for _, shift in found])
    shifted: dict[str, Shift] = {}
    for (name, shift), chance in zip(found, chances.tolist(), strict=True):
        # of two tests of one column the surer stands
        if name not in shifted or (chance, -shift.effect) < (shifted[name].chance, -shifted[name].effect):
            shifted[name] = Shift(shift.effect, chance)
    return shifted
