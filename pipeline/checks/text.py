"""Checks of texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pipeline.checks.findings import Check, Facts, Finding, share, some, unusual

if TYPE_CHECKING:
    from pipeline.limits import Validate


def short(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Texts that say next to nothing."""
    sizes = facts.measures["characters"]
    rows = np.flatnonzero((sizes < limits.min_characters) | (facts.measures["words"] == 0))
    examples = some(rows, [f"{sizes[row]:.0f} characters" for row in rows])
    what = f"have fewer than {limits.min_characters} characters or no word"
    yield from share("short", len(rows), len(sizes), limits.max_short, what, examples)


def damaged(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Texts with characters that were lost when their encoding was mistaken."""
    rows = np.flatnonzero(facts.measures["damaged characters"])
    what = "hold characters that were lost on the way (U+FFFD); read the files in their own encoding"
    yield from share("damaged", len(rows), len(facts.labels), limits.max_damaged, what, some(rows))


def boilerplate(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Words that many texts hold alike, such as a signature: they tell nothing, and crowd out what does."""
    found = facts.phrase
    if found is not None and (value := len(found.rows) / found.looked) > limits.warn_boilerplate:
        yield Finding(
            level="warning", check="boilerplate", count=len(found.rows), value=round(value, 6),
            limit=limits.warn_boilerplate, examples=some(found.rows),
            message=f"{len(found.rows)} of {found.looked} texts ({value:.1%}) hold the same words: '{found.words}'",
        )  # fmt: skip


def outliers(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Texts far longer or shorter than the others, by the ratio."""
    rows, sizes = np.arange(len(facts.labels)), facts.measures["characters"]
    yield from unusual("length", facts, limits, rows, sizes, 0.1, ratio=True)


TEXTS: tuple[Check, ...] = (short, damaged, boilerplate, outliers)
