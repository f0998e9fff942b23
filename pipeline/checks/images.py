"""Checks of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pipeline.checks.findings import EXAMPLES, Check, Example, Facts, Finding, share, unusual

if TYPE_CHECKING:
    from pipeline.limits import Validate


def constant(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Images of one grey level."""
    rows = np.flatnonzero(facts.measures["contrast"] == 0)
    levels = facts.measures["brightness"]
    examples = (Example(rows=(int(row),), note=f"level {levels[row]:.0f}") for row in rows[:EXAMPLES])
    total = len(facts.labels)
    yield from share("constant", len(rows), total, limits.max_constant, "are one flat colour", examples)


def outliers(facts: Facts, limits: Validate) -> Iterator[Finding]:
    """Images of unusual brightness or contrast; flat ones have their own check."""
    usual = np.flatnonzero(facts.measures["contrast"] > 0)
    for name, values in facts.measures.items():
        yield from unusual(name, facts, limits, usual, values[usual], 1.0)


IMAGES: tuple[Check, ...] = (constant, outliers)
