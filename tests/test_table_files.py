"""Files of rows: CSV in any condition, Parquet, folders, and what of them is refused."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.core.params import UserError
from pipeline.ingest import Ingest, ingest
from tests.tables import PEOPLE, arrow_people, kinds, refused, rows_of, source, table

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
        "x,y\n" + "".join(f"1,{at}\n" for at in range(50)) + "1,oops\n",
        {"max_categories": 40, "task": "classification"},
        "column 'y' holds more than 40 different values (no regression because of 'oops' at rows.csv:52)",
    ),
    "mixed target": (
        "x,y\n" + "".join(f"1,{at}\n" for at in range(50)) + "1,oops\n", {},
        "data.target: column 'y' holds numbers and 'oops' at rows.csv:52; mend it",
    ),
    "time is text": ("t,x,y\nsoon,1,a\nlate,2,b\n", {"time": "t"}, "column 't' holds 'soon' at rows.csv:2"),
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
        "rows.csv:13: not valid CSV: unexpected end of data; is a quotation mark not closed?",
    ])  # fmt: skip
    with pytest.raises(UserError, match="9 of 11 samples cannot be used"):
        ingest(found, Ingest(), tmp_path / "out")


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
    message = refused(table(tmp_path / "nested.parquet"))
    assert "column 'x' holds list<element: int64>; expected numbers, booleans, dates or text" in message


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
