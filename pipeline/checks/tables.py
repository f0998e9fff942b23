"""Checks of tables, column by column, from their profiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.checks.findings import Check, Facts, Finding, listed
from pipeline.facts.profiles import ColumnProfile

if TYPE_CHECKING:
    from pipeline.limits import Validate

FEW = 20  # rows below which a column of different values is no sign of an identifier
DENSE = 2  # whole numbers that all differ, of so few for each row: numbered, as draws would repeat themselves


def columns(facts: Facts) -> list[ColumnProfile]:
    """The columns that the data has, without what was measured of them."""
    return [column for column in facts.profile.columns if column.role == "column"]


def missing(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Columns with many missing values."""
    for level, limit, below in (
        ("error", limits.max_missing, 1.0), ("warning", limits.warn_missing, limits.max_missing)
    ):  # fmt: skip
        found = [each for each in columns(facts) if limit < each.missing_share <= below]
        if found:
            shown = ", ".join(f"'{each.name}' ({each.missing_share:.1%})" for each in found[:8])
            yield Finding(
                level=level, check="missing", count=len(found), value=max(e.missing_share for e in found), limit=limit,
                message=f"columns that miss more than {limit:.0%} of their values: {shown}",
            )  # fmt: skip


def constant(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Columns that hold one value, or none, in every row: nothing can be learnt from them."""
    all_ = columns(facts)
    found = [each.name for each in all_ if each.distinct <= 1 and (not each.distinct or not each.missing)]
    if found:
        value = len(found) / len(all_)
        yield Finding(
            level="error" if value > limits.max_constant_columns else "warning", check="constant columns",
            count=len(found), value=round(value, 6), limit=limits.max_constant_columns,
            message=f"columns of one value, or of none: {listed(found)}; data.drop leaves them out",
        )  # fmt: skip


def numbered(column: ColumnProfile) -> bool:
    """True for whole numbers in the order of the rows, or about as many as there are rows: 1, 2, 3, in any order.

    Incomes and amounts may all differ too, but lie scattered over a wider range.
    """
    if column.kind != "number" or not column.whole:
        return False
    return column.sorted or column.high - column.low < DENSE * (column.rows - column.missing)


def identifiers(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Numbered rows, or categories of which nearly every row has its own: a name, not a property."""
    found = []
    for each in columns(facts):
        there = each.rows - each.missing
        if there >= FEW and each.distinct / there >= limits.identifier_share:
            found += [each.name] if each.kind == "category" or numbered(each) else []
    if found:
        yield Finding(
            level="warning", check="identifiers", count=len(found), limit=limits.identifier_share,
            message=f"columns with another value in nearly every row, as an identifier has: "
            f"{listed(found)}; a model learns them by heart, data.drop leaves them out",
        )  # fmt: skip


def cardinality(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Categories too many to be learnt one by one."""
    found = [each for each in columns(facts) if each.kind == "category"]
    found = [each for each in found if each.distinct > limits.warn_categories]
    if found:
        shown = ", ".join(f"'{each.name}' ({each.distinct})" for each in found[:8])
        yield Finding(
            level="warning", check="cardinality", count=len(found), value=max(e.distinct for e in found),
            limit=limits.warn_categories,
            message=f"columns of more than {limits.warn_categories} categories: {shown}; "
            "data.max_categories takes rare ones together",
        )  # fmt: skip


def extremes(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Numbers so far from all others that they may stand for a missing one, such as 999999."""
    found = {}
    for each in columns(facts):
        if each.kind == "number" and each.quantiles:
            last = len(each.quantiles) - 1
            low, middle, high = (each.quantiles[round(last * share)] for share in (0.025, 0.5, 0.975))
            ends = [
                end
                for end in (each.low, each.high)
                if abs(end - middle) > limits.extreme_score * (high - low) / 3.92
            ]
            if ends and high > low:
                found[each.name] = " and ".join(f"{end:g}" for end in ends)
    if found:
        shown = ", ".join(f"'{name}' ({ends})" for name, ends in list(found.items())[:8])
        yield Finding(
            level="warning", check="extremes", count=len(found), limit=limits.extreme_score,
            message=f"columns with numbers far from all others: {shown}; do they stand for missing values?",
        )  # fmt: skip


TABLES: tuple[Check, ...] = (missing, constant, extremes, identifiers, cardinality)
