"""Stage `validate` on series: faults of channels and of whole series are found, and near copies share a group."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.checks.findings import Finding
from pipeline.duplicates.series import alike, resampled
from pipeline.validate import Validate
from serving.inputs.ragged import Ragged
from tests.validation import clean_series, examined, findings, labels_of, series_data

Series = list[np.ndarray]


def found(folder: Path, rows: Series, **limits: object) -> dict[str, Finding]:
    return findings(series_data(folder, rows, labels_of(len(rows))), **limits)


def test_clean_series_have_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, clean_series()) == {}


def test_series_are_measured_as_numpy_measures_them(tmp_path: Path) -> None:
    rows = clean_series()
    rows[3][4:9, 1] = np.nan
    rows[5][:, 0] = np.nan
    _, facts = examined(series_data(tmp_path, rows, labels_of(60)))
    assert facts.measures["length"].tolist() == [len(row) for row in rows]
    assert np.allclose(facts.measures["y mean"], [np.nanmean(row[:, 1], dtype=np.float64) for row in rows])
    assert np.allclose(facts.measures["y lowest"], [np.nanmin(row[:, 1]) for row in rows])
    assert np.allclose(facts.measures["y highest"], [np.nanmax(row[:, 1]) for row in rows])
    assert np.allclose(facts.measures["y missing share"], [np.isnan(row[:, 1]).mean() for row in rows])
    assert np.isnan(facts.measures["x mean"][5])
    assert facts.measures["x missing share"][5] == 1


def copied(rows: Series) -> None:
    rows[7] = rows[5].copy()


def nearly(rows: Series) -> None:
    rows[7] = rows[5] * 1.001 + 0.001


def flat(rows: Series) -> None:
    rows[5] = np.full((50, 2), 0.5, np.float32)


def long(rows: Series) -> None:
    rows[5] = clean_series(1, seed=9)[0].repeat(40, axis=0)


def far(rows: Series) -> None:
    rows[5] = rows[5] + 1000


FAULTS: list[tuple[Callable[[Series], None], str, str]] = [
    (copied, "duplicates", "max_duplicates"),
    (nearly, "near duplicates", "max_near_duplicates"),
    (flat, "constant", "max_constant"),
    (long, "length outliers", "max_outliers"),
    (far, "x mean outliers", "max_outliers"),
]


@pytest.mark.parametrize(("plant", "check", "limit"), FAULTS)
def test_a_planted_fault_is_a_warning_up_to_its_limit_and_an_error_above(
    tmp_path: Path, plant: Callable[[Series], None], check: str, limit: str
) -> None:
    rows = clean_series()
    plant(rows)
    warning = found(tmp_path, rows, **{limit: 1 / 60})[check]
    assert (warning.level, warning.count) == ("warning", 1)
    assert "file5" in {origin for example in warning.examples for origin in example.origins}
    assert found(tmp_path, rows, **{limit: 1 / 60 - 0.001})[check].level == "error"


def test_channels_that_are_missing_or_constant_are_found(tmp_path: Path) -> None:
    rows = clean_series()
    for row in rows:
        row[: len(row) * 3 // 4, 1] = np.nan
    assert "'y' (7" in found(tmp_path, rows)["missing"].message
    assert found(tmp_path, rows, max_missing=0.6)["missing"].level == "error"
    for row in rows:
        row[:, 1] = 3
    finding = found(tmp_path, rows)["constant channels"]
    assert (finding.level, finding.count) == ("warning", 1)
    assert "'y'" in finding.message
    assert found(tmp_path, rows, max_constant_columns=0.49)["constant channels"].level == "error"


CHANGED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], bool]] = {
    "rounded": (lambda row: row.round(3), True),
    "noisy": (lambda row: row + np.float32(0.002) * np.sin(np.arange(len(row)))[:, None], True),
    "a step missing": (lambda row: np.where(np.arange(len(row))[:, None] == 20, np.nan, row), False),
    "doubled": (lambda row: row * 2, False),
    "raised": (lambda row: row + 5, False),
    "longer": (lambda row: row.repeat(2, axis=0), False),
    "reversed": (lambda row: row[::-1], False),
}


@pytest.mark.parametrize("change", CHANGED)
def test_only_what_has_the_course_level_and_length_of_a_series_is_its_copy(
    tmp_path: Path, change: str
) -> None:
    rows = clean_series(40)
    make, same = CHANGED[change]
    changed = [make(row).astype(np.float32) for row in rows]
    _, facts = examined(series_data(tmp_path, rows + changed, labels_of(80)), max_near_duplicates=1.0)
    joined = (facts.duplicates.groups[40:] == np.arange(40)).mean()
    assert joined == 1 if same else joined < 0.5


def test_series_beyond_the_limit_are_not_compared(tmp_path: Path) -> None:
    rows = clean_series()
    nearly(rows)
    some, facts = examined(series_data(tmp_path, rows, labels_of(60)), max_compared=50)
    assert "validate.max_compared" in some["near duplicates"].message
    assert facts.duplicates.groups[7] == 7


def test_resampling_is_linear_and_likeness_counts_the_size() -> None:
    rows = Ragged.of([np.array([[0.0], [1], [4]]), np.array([[2.0], [4]])], "<f4", (1,))
    assert resampled(rows, 5)[..., 0].tolist() == [[0, 0.5, 1, 2.5, 4], [2, 2.5, 3, 3.5, 4]]
    one = np.array([[1.0, 2, 3]])
    assert alike(one, one).tolist() == [1]
    assert alike(one, 2 * one)[0] == pytest.approx(0.8)
    assert Validate().near_series > 0.99


def test_damaged_offsets_are_an_error(tmp_path: Path) -> None:
    from pipeline.validate import examine

    data = series_data(tmp_path, clean_series(), labels_of(60))
    ends = np.load(tmp_path / "series.offsets.npy")
    for at, value in ((-1, ends[-1] + 1), (5, ends[4])):
        wrong = ends.copy()
        wrong[at] = value
        np.save(tmp_path / "series.offsets.npy", wrong)
        report, facts = examine(data, Validate())
        assert facts is None
        assert "column 'series' cannot be read" in report.findings[0].message
