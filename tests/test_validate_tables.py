"""Stage `validate` on tables: faults of columns, near rows, leaks, targets and labels are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from pipeline.checks.findings import Finding
from pipeline.core.dataset import Dataset
from pipeline.duplicates import tables
from pipeline.duplicates.tables import find_duplicates
from pipeline.facts.leakage import LEAST, auc, ranked
from pipeline.facts.profiles import UNKNOWN
from pipeline.validate import examine
from serving.inputs.spec import TableField
from tests.validation import FIELDS, clean_table, examined, findings, labels_of, table_data

AGE, INCOME, MEMBER, SINCE, TOWN = range(5)


def found(folder: Path, rows: np.ndarray, **limits: object) -> dict[str, Finding]:
    return findings(table_data(folder, rows, labels_of(len(rows))), **limits)


def test_clean_tables_have_no_finding(tmp_path: Path) -> None:
    rows = clean_table()
    assert found(tmp_path / "classes", rows) == {}
    targets = np.stack([rows[:, AGE] / 10, rows[:, MEMBER]], axis=1) + clean_table(seed=3)[:, [AGE, AGE]]
    assert findings(table_data(tmp_path / "values", rows, targets)) == {}


def test_columns_are_told_as_numpy_tells_them(tmp_path: Path) -> None:
    rows = clean_table()
    rows[:7, TOWN] = 0
    _, facts = examined(table_data(tmp_path, rows, labels_of(len(rows))))
    income, town = facts.profile.column("income"), facts.profile.column("town")
    assert income is not None
    assert town is not None
    there = rows[:, INCOME][~np.isnan(rows[:, INCOME])]
    assert (income.missing, income.distinct) == (400 - len(there), len(np.unique(there)))
    assert income.mean == pytest.approx(there.mean(dtype=np.float64), rel=1e-6)
    assert income.deviation == pytest.approx(there.std(dtype=np.float64), rel=1e-6)
    assert (income.low, income.high) == (pytest.approx(there.min()), pytest.approx(there.max()))
    assert income.quantiles[100] == pytest.approx(np.median(there), rel=0.01)
    assert town.counts == {
        name: int((rows[:, TOWN] == code).sum()) for code, name in enumerate(FIELDS[4].categories, 1)
    }
    assert town.missing == 7
    assert UNKNOWN not in town.counts
    assert facts.measures["missing cells"].sum() == income.missing + 7


def test_columns_are_told_the_same_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = table_data(tmp_path, clean_table(), labels_of(400))
    whole = examined(data)[1].profile
    monkeypatch.setattr("pipeline.facts.measures.VALUES", 800)  # two columns
    assert examined(data)[1].profile == whole


def test_missing_values_warn_and_then_stop(tmp_path: Path) -> None:
    rows = clean_table()
    rows[:240, AGE] = np.nan
    warning = found(tmp_path, rows)["missing"]
    assert (warning.level, warning.value) == ("warning", pytest.approx(0.6))
    assert "'age' (60.0%)" in warning.message
    assert found(tmp_path, rows, max_missing=0.59)["missing"].level == "error"


@pytest.mark.parametrize(("column", "value"), [(AGE, 5.0), (INCOME, np.nan), (TOWN, 2.0)])
def test_a_constant_column_is_found(tmp_path: Path, column: int, value: float) -> None:
    rows = clean_table()
    rows[:, column] = value
    finding = found(tmp_path, rows)["constant columns"]
    assert (finding.level, finding.count) == ("warning", 1)
    assert f"'{FIELDS[column].name}'" in finding.message
    assert found(tmp_path, rows, max_constant_columns=0.19)["constant columns"].level == "error"


def test_identifiers_and_many_categories_are_found(tmp_path: Path) -> None:
    rows = clean_table()
    rows[:, AGE] = np.random.default_rng(0).permutation(400)
    rows[:, TOWN] = np.arange(400) + 1
    many = TableField(name="town", kind="category", categories=tuple(f"t{at}" for at in range(400)))
    some = findings(table_data(tmp_path, rows, labels_of(400), (*FIELDS[:4], many)))
    assert some.keys() == {"identifiers", "cardinality"}
    assert "'age', 'town'" in some["identifiers"].message
    assert "'town' (400)" in some["cardinality"].message
    rows[:, TOWN] = np.arange(400) // 2 + 1
    assert "identifiers" not in findings(
        table_data(
            tmp_path, rows[:, [INCOME, INCOME, MEMBER, SINCE, TOWN]], labels_of(400), (*FIELDS[:4], many)
        )
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (lambda draw: draw.permutation(400) + 5_000, True),
        (lambda draw: draw.permutation(600)[:400], True),  # some rows were left out
        (lambda draw: np.cumsum(draw.integers(1, 900, 400)), True),
        (lambda draw: -np.cumsum(draw.integers(1, 900, 400)), True),
        (lambda draw: draw.normal(40_000, 9_000, 400).round(), False),
        (lambda draw: draw.integers(0, 1_000_000, 400), False),
    ],
    ids=["shuffled", "with gaps", "rising", "falling", "income", "scattered"],
)
def test_whole_numbers_are_identifiers_where_they_number_the_rows(
    tmp_path: Path, values: Callable[[np.random.Generator], np.ndarray], told: bool
) -> None:
    rows = clean_table()
    rows[:, INCOME] = values(np.random.default_rng(0))
    assert len(np.unique(rows[:, INCOME])) > 380
    assert ("identifiers" in found(tmp_path, rows, identifier_share=0.95)) == told


def test_a_number_that_stands_for_a_missing_one_is_found(tmp_path: Path) -> None:
    rows = clean_table()
    rows[5, AGE] = 9999
    finding = found(tmp_path, rows)["extremes"]
    assert (finding.level, finding.count) == ("warning", 1)
    assert "'age' (9999)" in finding.message
    assert "extremes" not in found(tmp_path, rows, extreme_score=1000)


def groups(data: Dataset, tolerance: float = 1e-4) -> np.ndarray:
    return find_duplicates(data, tolerance, 100_000).groups


def test_rows_that_differ_by_rounding_are_one_group(tmp_path: Path) -> None:
    rows = clean_table(3000)
    copies = rows[:500].copy()
    copies[:, INCOME] *= 1 + 1e-6
    copies[:, AGE] += 1e-4
    all_ = np.concatenate([rows, copies])
    held = groups(table_data(tmp_path, all_, labels_of(len(all_))))
    assert held.tolist() == [*range(3000), *range(500)]


@pytest.mark.parametrize("column", [AGE, MEMBER, SINCE, TOWN])
def test_rows_that_differ_in_one_property_are_no_copies(tmp_path: Path, column: int) -> None:
    rows = clean_table(200)
    other = rows.copy()
    other[:, column] = rows[:, column] % 3 + 1 if column == TOWN else rows[:, column] + 1
    all_ = np.concatenate([rows, other])
    assert (groups(table_data(tmp_path, all_, labels_of(400))) == np.arange(400)).all()


def test_a_table_so_dense_that_neighbours_are_near_has_no_near_copies(tmp_path: Path) -> None:
    line = np.random.default_rng(0).random((20_000, 1)).astype(np.float32)
    data = table_data(tmp_path, line, labels_of(20_000), FIELDS[:1])
    held = find_duplicates(data, 1e-3, 1_000_000)
    assert "near_cells" in held.unsearched
    assert (held.groups == held.exact).all()


def test_equal_rows_warn_and_share_a_group_in_any_number(tmp_path: Path) -> None:
    rows = np.concatenate([clean_table(100)] * 4)
    some, facts = examined(table_data(tmp_path, rows, labels_of(400)))
    assert some["duplicates"].level == some["duplicate conflicts"].level == "warning"
    assert (facts.duplicates.groups == np.tile(np.arange(100), 4)).all()
    assert "file100" in {origin for one in some["duplicates"].examples for origin in one.origins}


def test_all_rows_of_a_hash_are_compared_though_neighbours_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "NEIGHBOURS", 1)
    rows = clean_table(300)
    rows[250, :] = rows[20, :]
    rows[250, INCOME] = rows[20, INCOME] * (1 + 1e-6)
    assert groups(table_data(tmp_path, rows, labels_of(300)))[250] == 20


LEAKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "a number": lambda rows, labels: labels * 7.0 + rows[:, AGE] / 100,
    "reversed": lambda rows, labels: -labels * 7.0 + rows[:, AGE] / 100,
    "what is missing": lambda rows, labels: np.where(labels == 1, np.nan, rows[:, AGE]),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_column_that_tells_the_class_alone_is_suspected(tmp_path: Path, leak: str) -> None:
    rows, labels = clean_table(), labels_of(400)
    rows[:, INCOME] = LEAKS[leak](rows, labels)
    data = table_data(tmp_path, rows, labels)
    finding = findings(data, warn_missing=1.0)["leakage"]
    assert (finding.level, finding.count) == ("warning", 1)
    assert "'income'" in finding.message
    assert findings(data, levels={"leakage": "error"})["leakage"].level == "error"
    assert "leakage" not in findings(data, levels={"leakage": "ignore"})


def test_a_category_that_tells_the_class_and_a_number_that_tells_a_value_are_suspected(
    tmp_path: Path,
) -> None:
    rows, labels = clean_table(), labels_of(400)
    rows[:, TOWN] = labels + 1
    assert "'town'" in findings(table_data(tmp_path / "a", rows, labels))["leakage"].message
    rows = clean_table()
    told = np.exp(rows[:, INCOME] / 10_000)
    finding = findings(table_data(tmp_path / "b", rows, np.nan_to_num(told, nan=3.0)), leak_score=0.97)[
        "leakage"
    ]
    assert "'income'" in finding.message


def test_few_samples_are_no_ground_for_a_suspicion(tmp_path: Path) -> None:
    rows, labels = clean_table(LEAST - 1), labels_of(LEAST - 1)
    rows[:, AGE] = labels
    assert "leakage" not in findings(table_data(tmp_path, rows, labels))


def test_scores_agree_with_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    score = draw.integers(0, 9, 500) / 9
    truth = draw.random(500) < score
    held = np.unique(score)
    wanted, others = (
        [int((score[truth == side] == value).sum()) for value in held] for side in (True, False)
    )
    assert auc(held, np.array(wanted), np.array(others)) == pytest.approx(roc_auc_score(truth, score))
    assert r2_score(ranked(score), ranked(score**3)) == 1


def test_targets_that_are_far_off_tied_or_all_one_are_found(tmp_path: Path) -> None:
    rows = clean_table()
    target = clean_table(seed=3)[:, AGE]
    target[5] = 1e5
    assert findings(table_data(tmp_path / "far", rows, target))["target y0 outliers"].examples[0].rows == (5,)
    target[5:200] = 40
    ties = findings(table_data(tmp_path / "ties", rows, target))["ties"]
    assert "40 for 4" in ties.message or "40 for 5" in ties.message
    target[:] = 40
    assert findings(table_data(tmp_path / "one", rows, target))["one target"].level == "error"


def test_targets_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    data = table_data(tmp_path, clean_table(), np.full(400, np.nan))
    report, facts = examine(
        data, kept=tmp_path / "none", limits=__import__("pipeline.limits").limits.Validate()
    )
    assert facts is None
    assert "400 targets are missing" in report.findings[0].message


def test_wrong_labels_are_suspected_where_asked(tmp_path: Path) -> None:
    rows = clean_table(600)
    labels = (rows[:, AGE] > 54).astype(np.int64)
    clear = np.flatnonzero(np.abs(rows[:, AGE] - 54) > 20)
    wrong = clear[::30]
    labels[wrong] = 1 - labels[wrong]
    data = table_data(tmp_path, rows, labels)
    assert "label errors" not in findings(data)
    finding = findings(data, label_errors=True)["label errors"]
    first = {row for example in finding.examples for row in example.rows}
    assert len(first & set(wrong.tolist())) >= 8  # of 12 shown; others lie at the border of the classes
    assert finding.count >= 0.8 * len(wrong)
    assert findings(data, label_errors=True, max_label_errors=0.0)["label errors"].level == "error"
