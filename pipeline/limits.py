"""The `validate` section: what data may be like."""

from __future__ import annotations

from pydantic import Field

from pipeline.checks.findings import Level
from pipeline.core.params import Section


class Levels(Section):
    """What each change since the data accepted last is, and a suspected leak: an error stops the road."""

    missing_column: Level = Field("error", description="A column or channel is gone.")
    new_column: Level = Field("warning", description="A column or channel was not there.")
    retyped_column: Level = Field("error", description="A column holds another kind of values.")
    vanished_class: Level = Field("error", description="A class has no sample any more.")
    new_class: Level = Field("warning", description="A class was not there.")
    new_category: Level = Field("warning", description="A category of a column was never seen.")
    out_of_range: Level = Field("warning", description="Numbers lie far outside of their earlier range.")
    drift: Level = Field("warning", description="A distribution has shifted.")
    leakage: Level = Field("warning", description="A single column tells the target nearly alone.")


class Validate(Section):
    """The `validate` section: up to a `max` a finding is a warning, above it an error that stops the road.

    Equal or nearly equal rows of a table are warnings in any number, as they need be no copies.
    """

    min_per_class: int = Field(5, ge=1, le=1_000_000, description="Fewer samples of any class are an error.")
    warn_imbalance: float = Field(
        3.0, ge=1, description="Largest class over the smallest, in samples, above which there is a warning."
    )
    max_imbalance: float = Field(100.0, ge=1, description="The same ratio, above which there is an error.")
    max_duplicates: float = Field(
        0.2, ge=0, le=1, description="Fraction of samples that repeat an earlier one."
    )
    max_conflicts: float = Field(
        0.01, ge=0, le=1, description="Fraction of samples with an exact copy in another class."
    )
    max_near_duplicates: float = Field(
        0.3, ge=0, le=1, description="Fraction of samples that nearly repeat an earlier one."
    )
    max_near_conflicts: float = Field(
        0.02, ge=0, le=1, description="Fraction of samples with a near copy in another class."
    )
    near_similarity: float = Field(
        0.988,
        ge=0.9,
        le=0.9999,
        description="Similarity from which two images are near copies; 1 is the same picture.",
    )
    near_cells: float = Field(
        0.0001, gt=0, le=0.1,
        description="Difference up to which numbers of two rows of a table are near copies, in standard deviations.",
    )  # fmt: skip
    near_series: float = Field(
        0.9995,
        ge=0.9,
        le=0.999999,
        description="Similarity from which two series are near copies; 1 is the same course.",
    )
    near_text: float = Field(
        0.8, ge=0.5, le=0.999, description="Share of their wording from which two texts are near copies."
    )
    max_compared: int = Field(
        100_000, ge=0, le=1_000_000,
        description="Distinct images or series above which near copies are not searched (time grows with the square).",
    )  # fmt: skip
    max_candidates: int = Field(
        200_000, ge=1, le=100_000_000, description="Pairs of samples compared in full at most."
    )
    max_constant: float = Field(
        0.01, ge=0, le=1, description="Fraction of images of one colour, or of series that do not move."
    )
    outlier_score: float = Field(
        8.0,
        ge=3,
        description="Beyond this many robust deviations from the median, the brightness or contrast of images, the "
        "length of series and texts, the mean of a channel or a target of a regression is unusual.",
    )
    max_outliers: float = Field(0.05, ge=0, le=1, description="Fraction of samples that are unusual so.")
    warn_missing: float = Field(
        0.5, ge=0, le=1, description="Fraction of missing values of a column or channel that gives a warning."
    )
    max_missing: float = Field(
        1.0, ge=0, le=1, description="The same fraction, above which there is an error."
    )
    max_constant_columns: float = Field(
        0.5, ge=0, le=1, description="Fraction of columns or channels that hold one value alone."
    )
    identifier_share: float = Field(
        0.99, gt=0, le=1,
        description="Different values a row from which whole numbers or categories look like an identifier: a warning.",
    )  # fmt: skip
    extreme_score: float = Field(
        100.0, ge=3,
        description="A number so many deviations (of the middle 95 %) from the median may stand for a missing one.",
    )  # fmt: skip
    warn_categories: int = Field(
        200, ge=2, description="Categories of a column above which there is a warning."
    )
    min_characters: int = Field(3, ge=1, description="A shorter text says next to nothing, in characters.")
    max_short: float = Field(0.01, ge=0, le=1, description="Fraction of such texts.")
    max_damaged: float = Field(
        0.01, ge=0, le=1, description="Fraction of texts with characters that were lost on the way."
    )
    warn_boilerplate: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Fraction of texts that hold the same words, above which there is a warning.",
    )
    warn_ties: float = Field(
        0.3,
        gt=0,
        le=1,
        description="Fraction of samples of one target value in a regression that gives a warning.",
    )
    leak_score: float = Field(
        0.98, gt=0.5, le=1,
        description="A single column that tells the target so well (AUC, or R2 of its ranks) is suspected of a leak.",
    )  # fmt: skip
    range_margin: float = Field(
        1.0, ge=0, description="Numbers may lie so far beyond the earlier range, in widths of that range."
    )
    drift_effect: float = Field(
        0.1, ge=0, le=1,
        description="Share of samples that lie elsewhere than in the data accepted last, above which it is a drift.",
    )  # fmt: skip
    drift_rate: float = Field(
        0.01,
        gt=0,
        le=0.5,
        description="Share of false alarms among the columns that are told to drift (Benjamini-Hochberg).",
    )
    label_errors: bool = Field(
        False,
        description="Suspect wrong labels with a quick cross-validated model; some seconds for each 5,000 samples.",
    )
    max_label_errors: float = Field(0.2, ge=0, le=1, description="Fraction of samples of a suspected label.")
    levels: Levels = Field(
        default_factory=lambda: Levels(),
        description="What a suspicion, or a change since the data accepted last, is.",
    )
