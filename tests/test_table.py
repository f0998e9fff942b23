"""Tables: what is inferred, what the task is, and what the model does not see."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest

from pipeline.ingest import Ingest, ingest
from tests.tables import PEOPLE, kinds, refused, rows_of, source


def test_kinds_are_inferred_and_cells_become_numbers_and_codes(tmp_path: Path) -> None:
    found = source(tmp_path, PEOPLE)
    assert kinds(found) == {
        "age": "number", "member": "boolean", "joined": "date", "city": "category", "score": "number",
    }  # fmt: skip
    assert found.spec.classes == ("a", "b")
    assert found.spec.table is not None
    assert found.spec.table.categories[0].categories == ("Rome", "Oslo", "Oslo, East")
    columns, origins, bad = rows_of(found)
    assert bad == []
    assert origins == [f"rows.csv:{line}" for line in (2, 3, 4, 5)]
    nan = np.nan
    day = (datetime.date(2024, 2, 1) - datetime.date(1970, 1, 1)).days + 0.5
    expected = [
        [31, 1, 19727, 1.5, 1], [nan, 0, day, nan, 2], [44, 1, nan, -2000, 3], [27, 0, -1, 0, 1],
    ]  # age, member, joined, score, then the code of the city  # fmt: skip
    np.testing.assert_array_equal(columns["row"], np.array(expected, np.float32))
    assert columns["row"].dtype == np.float32
    assert columns["label"].tolist() == [0, 1, 0, 1]


def test_a_user_may_say_what_columns_hold_and_which_are_not_seen(tmp_path: Path) -> None:
    found = source(tmp_path, PEOPLE, kinds={"age": "category"}, drop=["joined", "member"], target=["city"])
    assert kinds(found) == {"age": "category", "score": "number", "label": "category"}
    assert found.spec.classes == ("Oslo", "Oslo, East", "Rome")
    assert found.spec.table is not None
    assert set(found.spec.table.fields[0].categories) == {"31", "44", "27"}, "27.0 and 27 are one category"


def test_rare_categories_are_taken_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cities = ["x"] * 3 + ["b"] * 2 + ["a"] * 2 + ["c"]
    text = "city,label\n" + "".join(f"{city},{at % 2}\n" for at, city in enumerate(cities))
    found = source(tmp_path, text, max_categories=3)
    assert found.spec.table is not None
    assert found.spec.table.fields[0].categories == ("x", "a", "b")
    columns, _, _ = rows_of(found)
    assert columns["row"][:, 0].tolist() == [1, 1, 1, 3, 3, 2, 2, 0]
    assert "column 'city' holds more than 3 categories" in capsys.readouterr().out


def test_the_task_follows_from_the_target(tmp_path: Path) -> None:
    def text(values: int) -> str:
        return "x,y,z\n" + "".join(f"{at},{at % values},{at / 7}\n" for at in range(60))

    many, few = source(tmp_path / "many", text(21)), source(tmp_path / "few", text(20), target=["y"])
    assert (many.spec.task, many.spec.targets) == ("regression", ("z",))
    assert few.spec.task == "classification"
    assert few.spec.classes == tuple(map(str, range(20))), "numbers in the order of their size"
    both = source(tmp_path / "both", text(21), target=["z", "y"])
    assert both.spec.targets == ("z", "y")
    columns, _, _ = rows_of(both)
    np.testing.assert_allclose(columns["target"][30], [30 / 7, 9], rtol=1e-6)
    forced = source(tmp_path / "forced", text(20), target=["y"], task="regression")
    assert forced.spec.target.dtype == "<f4"
    assert "a classifier learns one" in refused(source(tmp_path / "two", text(20), target=["y", "z"]))


def test_a_missing_class_is_told(tmp_path: Path) -> None:
    _, origins, bad = rows_of(source(tmp_path, "x,y\n1,a\n2,\n3,b\n4,NA\n"))
    assert origins == ["rows.csv:2", "rows.csv:4"]
    assert bad == ["rows.csv:3: the target 'y' is missing", "rows.csv:5: the target 'y' is missing"]


def test_what_is_assumed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ",x,empty,mixed,y\n" + "".join(f"{at},{at},,{at},{at % 3}\n" for at in range(8)) + "8,8,,n.d.,2\n"
    found = source(tmp_path, text)
    assert kinds(found) == {"x": "number", "mixed": "category"}
    rows_of(found)
    told = capsys.readouterr().out
    assert "the first column has no name and was left out" in told
    assert "column 'empty' holds nothing and was left out" in told
    assert "column 'mixed' holds numbers and 'n.d.' at rows.csv:10, and is taken as a category" in told


def test_groups_times_and_splits_become_columns_that_the_model_does_not_see(tmp_path: Path) -> None:
    text = (
        "who,when,part,x,y\np1,2020-01-01,train,1,a\np2,2020-01-02,test,2,b\np1,2020-01-03,val,3,a\n,2020-01-04,val,4,b\n"
        ",2020-01-05T06:00,test,5,a\np1,,train,6,b\np1,2020-01-06,later,7,b\n"
    )
    found = source(tmp_path, text, group="who", time="when", split="part")
    assert kinds(found) == {"x": "number"}
    columns, _, bad = rows_of(found)
    group = columns["group"]
    assert group[0] == group[2]
    assert len(set(group)) == 4, "two groups, and two rows that name none"
    assert (columns["time"] - columns["time"][0]).tolist() == [0, 1, 2, 3, 4.25]
    assert columns["split"].tolist() == [0, 2, 1, 1, 2]
    roles = {
        column.role: (column.dtype, columns[column.name].dtype)
        for column in found.spec.columns
        if column.name != "id"
    }
    assert all(np.dtype(said) == is_ for said, is_ in roles.values())
    assert bad == [
        "rows.csv:7: the time 'when' is missing",
        "rows.csv:8: the split is 'later'; expected train, val or test",
    ]


def test_chunks_of_any_size_give_the_same_data_set(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    text = "x,c,y\n" + "".join(
        f"{generator.normal():.6f},{generator.integers(9)},{at % 2}\n" for at in range(300)
    )
    found = source(tmp_path, text, kinds={"c": "category"})
    one, other = tmp_path / "one", tmp_path / "other"
    assert ingest(found, Ingest(chunk=7), one) == ingest(found, Ingest(chunk=1000), other) == 300
    for name in ("row.npy", "label.npy", "id.npy", "manifest.csv", "spec.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
