"""Stage `validate` against the data that it accepted last: what is gone, new, out of range or has shifted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline import validate
from pipeline.checks.findings import Finding
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.facts.drift import of_counts, of_numbers, shifts
from pipeline.facts.measures import Measure
from pipeline.facts.profiles import ColumnProfile, History, profile_of
from pipeline.limits import Levels
from serving.inputs.spec import TableField, read_json, write_json
from tests.validation import (
    FIELDS,
    clean_images,
    clean_series,
    clean_table,
    clean_texts,
    examined,
    image_data,
    labels_of,
    series_data,
    table_data,
    text_data,
)

AGE, INCOME, MEMBER, SINCE, TOWN = range(5)


def accept(data: Dataset, name: str = "test") -> Path:
    """Keep what `validate` would keep of a data set."""
    kept = data.folder / "profile.json"
    write_json(kept, History(accepted=examined(data, name=name)[1].profile))
    return kept


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return accept(table_data(tmp_path / "before", clean_table(), labels_of(400)))


def since(kept: Path, data: Dataset, **limits: object) -> dict[str, Finding]:
    return examined(data, kept, **limits)[0]


def now(tmp_path: Path, rows: np.ndarray, *fields: TableField) -> Dataset:
    return table_data(tmp_path / "now", rows, labels_of(len(rows), seed=1), fields or FIELDS)


@pytest.mark.parametrize("count", [100, 400, 4000])
def test_other_samples_of_the_same_kind_have_no_finding(tmp_path: Path, kept: Path, count: int) -> None:
    for seed in range(3):
        assert since(kept, now(tmp_path, clean_table(count, seed=seed + 1))) == {}


def test_other_series_texts_and_images_of_the_same_kind_have_no_finding(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    old = accept(series_data(before, clean_series(), labels_of(60)))
    assert since(old, series_data(after, clean_series(seed=1), labels_of(60))) == {}
    old = accept(text_data(before, clean_texts(), labels_of(60)))
    assert since(old, text_data(after, clean_texts(seed=1), labels_of(60))) == {}
    old = accept(image_data(before, *clean_images(60)))
    assert since(old, image_data(after, *clean_images(50))) == {}


def test_columns_that_are_missing_new_or_of_another_kind_are_found(tmp_path: Path, kept: Path) -> None:
    fields = (
        TableField(name="age", kind="date"),
        *FIELDS[1:3],
        TableField(name="height", kind="number"),
        FIELDS[4],
    )
    some = since(kept, now(tmp_path, clean_table(), *fields))
    assert {check: some[check].level for check in ("missing column", "new column", "retyped column")} == {
        "missing column": "error", "new column": "warning", "retyped column": "error"
    }  # fmt: skip
    assert "'since'" in some["missing column"].message
    assert "'height'" in some["new column"].message
    assert "'age' (was number, is date)" in some["retyped column"].message


def test_what_a_change_is_is_a_parameter(tmp_path: Path, kept: Path) -> None:
    rows = clean_table()[:, [INCOME, MEMBER, SINCE, TOWN]]
    data = now(tmp_path, rows, *FIELDS[1:])
    for level in ("warning", "error"):
        assert since(kept, data, levels={"missing_column": level})["missing column"].level == level
    assert "missing column" not in since(kept, data, levels={"missing_column": "ignore"})
    assert set(Levels.model_fields) == {
        "missing_column", "new_column", "retyped_column", "vanished_class", "new_class", "new_category",
        "out_of_range", "drift", "leakage",
    }  # fmt: skip


def test_classes_that_vanished_or_are_new_are_found(tmp_path: Path) -> None:
    images, labels = clean_images()
    old = accept(image_data(tmp_path / "before", images, labels, ("cat", "dog")))
    some = since(old, image_data(tmp_path / "now", images, labels, ("cat", "bird")))
    assert (some["vanished class"].level, some["new class"].level) == ("error", "warning")
    assert "'dog'" in some["vanished class"].message
    assert "'bird'" in some["new class"].message


def test_categories_and_ranges_never_seen_are_found(tmp_path: Path, kept: Path) -> None:
    rows = clean_table()
    rows[:9, TOWN] = 4
    rows[5, AGE] = 500
    towns = TableField(name="town", kind="category", categories=(*FIELDS[4].categories, "York"))
    some = since(kept, now(tmp_path, rows, *FIELDS[:4], towns))
    assert some.keys() == {"new category", "out of range"}
    assert (
        "'town' holds categories never seen before, in 9 of 400 rows: 'York'" in some["new category"].message
    )
    assert "'age' ranges from 18 to 500" in some["out of range"].message
    assert "out of range" not in since(kept, now(tmp_path, rows, *FIELDS[:4], towns), range_margin=6)


@pytest.mark.parametrize("column", [AGE, INCOME, MEMBER, TOWN])
def test_a_shift_of_a_column_is_found(tmp_path: Path, kept: Path, column: int) -> None:
    rows = clean_table(seed=1)
    if column in (MEMBER, TOWN):
        rows[:150, column] = 1
    else:
        rows[:, column] += 0.5 * np.nanstd(rows[:, column])
    finding = since(kept, now(tmp_path, rows))["drift"]
    assert (finding.level, finding.count) == ("warning", 1)
    assert f"'{FIELDS[column].name}'" in finding.message
    assert "drift" not in since(kept, now(tmp_path, rows), drift_effect=0.5)
    assert since(kept, now(tmp_path, rows), levels={"drift": "error"})["drift"].level == "error"


def test_more_missing_values_or_another_share_of_the_classes_is_a_shift(tmp_path: Path, kept: Path) -> None:
    rows = clean_table(seed=1)
    rows[:120, AGE] = np.nan
    assert "'age' (0.3" in since(kept, now(tmp_path, rows))["drift"].message
    skewed = table_data(tmp_path / "skewed", clean_table(seed=1), (np.arange(400) % 4 > 0).astype(np.int64))
    assert "'label' (0.2" in since(kept, skewed)["drift"].message


def test_few_samples_are_no_proof_and_many_no_matter(tmp_path: Path) -> None:
    old = accept(table_data(tmp_path / "before", clean_table(20_000), labels_of(20_000)))
    few = clean_table(12, seed=1)
    few[:, AGE] += 15
    assert "drift" not in since(old, now(tmp_path, few), min_per_class=1)
    slight = clean_table(20_000, seed=1)
    slight[:, AGE] += 2
    data = now(tmp_path, slight)
    _, facts = examined(data, old)
    assert facts.shifts["age"].chance < 1e-3
    assert "drift" not in since(old, data)
    assert "drift" in since(old, data, drift_effect=0.02)


def numbers(values: np.ndarray) -> ColumnProfile:
    return profile_of(Measure("v", values.astype(np.float32)), "column")


@pytest.mark.parametrize("move", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("whole", [True, False])
def test_the_tests_agree_with_scipy_on_the_values_themselves(move: float, whole: bool) -> None:
    draw = np.random.default_rng(0)
    one, other = draw.normal(0, 3, 900), draw.normal(3 * move, 3, 700)
    if whole:
        one, other = one.round(), other.round()
    expected = stats.ks_2samp(one, other, method="asymp")
    told = of_numbers(numbers(one), numbers(other))
    assert told.effect == pytest.approx(expected.statistic, abs=0.01)
    assert told.chance == pytest.approx(expected.pvalue, rel=0.6, abs=0.02)
    counts = of_counts({"a": 50, "b": 70}, {"a": 90, "b": 40})
    assert counts.chance == pytest.approx(
        stats.chi2_contingency([[50, 70], [90, 40]], correction=False).pvalue
    )
    assert counts.effect == pytest.approx(90 / 130 - 50 / 120)


def test_rare_categories_are_taken_together() -> None:
    common = {f"common {at}": 100 for at in range(3)}
    one = common | {f"one {at}": 1 for at in range(40)}
    other = common | {f"other {at}": 1 for at in range(40)}
    assert of_counts(one, other).chance > 0.9


def test_chances_are_corrected_for_the_number_of_columns(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    fields = [TableField(name=f"c{at}", kind="number") for at in range(200)]
    old, new = draw.standard_normal((2, 150, 200)).astype(np.float32)
    new[:, 0] += 1
    data = [
        table_data(tmp_path / str(at), rows, labels_of(150), fields) for at, rows in enumerate((old, new))
    ]
    before, after = (examined(each)[1].profile for each in data)
    found = shifts(before, after)
    assert [name for name, shift in found.items() if shift.chance < 0.01] == ["c0"]
    pairs = list(zip(before.columns, after.columns, strict=True))[:200]
    alone = [of_numbers(*pair).chance for pair in pairs]
    assert sum(chance < 0.01 for chance in alone) > 1


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("name: test\n")
    return tmp_path


def outputs() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in validate.OUTPUT.iterdir()}


def test_data_is_held_against_what_was_accepted_and_never_against_what_was_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table_data(validate.INPUT, clean_table(), labels_of(400))
    validate.run()
    first = outputs()
    assert b"No earlier data" in first["index.html"]
    gone = clean_table(seed=1)[:, [INCOME, MEMBER, SINCE, TOWN]]
    table_data(validate.INPUT, gone, labels_of(400), FIELDS[1:])
    for _ in range(2):  # refused twice: the first refusal does not become the measure
        with pytest.raises(UserError, match=r"(?s)missing: 'age'.*validate\.failed"):
            validate.run()
        assert outputs() == first
    older = clean_table(seed=1)
    older[:, AGE] += 30
    table_data(validate.INPUT, older, labels_of(400))
    capsys.readouterr()
    validate.run()
    assert "warning: 1 of 7 columns and measures shifted" in capsys.readouterr().out
    second = outputs()
    assert b"Compared with the data accepted before, 400 samples" in second["index.html"]
    validate.run()
    assert outputs() == second, "the same data is compared with what it was compared with before"
    older[0, INCOME] = 12_345
    table_data(validate.INPUT, older, labels_of(400))
    validate.run()
    assert read_json(validate.OUTPUT / "report.json")["findings"] == [], "the warned-of data was accepted"


@pytest.mark.parametrize("other", ["name", "source", "version"])
def test_data_of_another_project_source_or_version_is_not_compared(project: Path, other: str) -> None:
    table_data(validate.INPUT, clean_table(), labels_of(400))
    validate.run()
    spec = {"source": "other"} if other == "source" else {}
    table_data(validate.INPUT, clean_table()[:, 1:], labels_of(400), FIELDS[1:], **spec)
    if other == "name":
        (project / "params.yaml").write_text("name: another\n")
    if other == "version":
        (validate.OUTPUT / "profile.json").write_text('{"accepted": 1}')
    validate.run()
    assert read_json(validate.OUTPUT / "report.json")["compared"] is None
