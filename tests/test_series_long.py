"""Long tables of series: sorted, grouped, and refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.params import UserError
from pipeline.sources import open_source
from tests.walks import TS, data, long_table, origins, taken, write, wrongs


def test_a_long_table_is_sorted_by_time_within_each_series(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "\ufeff" + long_table())
    dataset = taken(open_source(data(path, time="t")), tmp_path / "out")
    assert dataset.spec.series is not None
    assert dataset.spec.series.channels == ("x", "y")
    assert dataset.spec.classes == ("fast", "slow")
    assert origins(tmp_path / "out") == ["s.csv:b", "s.csv:a"]
    np.testing.assert_array_equal(dataset.inputs[0], np.array([[0, 0], [10, np.nan], [20, 1]], np.float32))
    np.testing.assert_array_equal(dataset.inputs[1], np.array([[0, 0], [-1, 0.1], [-2, 0.2]], np.float32))


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    from pyarrow import csv, parquet

    text = write(tmp_path / "s.csv", long_table(5))
    kinds = csv.ConvertOptions(null_values=["NA"])
    (tmp_path / "p").mkdir()
    parquet.write_table(csv.read_csv(text, convert_options=kinds), tmp_path / "p" / "s.parquet")
    one = taken(open_source(data(text, time="t")), tmp_path / "one")
    other = taken(open_source(data(tmp_path / "p", time="t")), tmp_path / "other")
    assert one.spec == other.spec
    np.testing.assert_array_equal(one.column("id"), other.column("id"))
    np.testing.assert_array_equal(one.targets, other.targets)


def test_times_may_be_dates_and_without_a_time_the_order_of_the_file_holds(tmp_path: Path) -> None:
    rows = [("2024-03-01T00:00:01", 2), ("2024-03-01", 1), ("2024-03-02", 3)]
    text = "id,t,x,kind\n" + "".join(f"{name},{when},{x},{name}\n" for name in "ab" for when, x in rows)
    path = write(tmp_path / "s.csv", text)
    by_time = taken(open_source(data(path, time="t")), tmp_path / "one")
    as_it_is = taken(open_source(data(path, drop=["t"])), tmp_path / "other")
    assert by_time.inputs[0].ravel().tolist() == [1, 2, 3]
    assert as_it_is.inputs[0].ravel().tolist() == [2, 1, 3]


def test_parquet_may_hold_dates_dictionaries_and_numbered_series(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    when = np.array(["2024-01-03", "2024-01-01", "2024-01-02"] * 2, "datetime64[us]")
    columns = {"id": [7, 7, 7, 8, 8, 8], "x": pa.array([3, 1, 2, 6, 4, None], pa.int16()),
               "kind": pa.array(["u"] * 3 + ["v"] * 3).dictionary_encode()}  # fmt: skip
    for kind in (pa.timestamp("us"), pa.timestamp("ms", "UTC"), pa.date32()):
        table = pa.table({**columns, "t": pa.array(when).cast(kind)})
        parquet.write_table(table, tmp_path / "s.parquet")
        dataset = taken(
            open_source(data(tmp_path / "s.parquet", time="t", target=["kind"])), tmp_path / "out"
        )
        assert dataset.inputs[0].ravel().tolist() == [1, 2, 3]
        np.testing.assert_array_equal(dataset.inputs[1].ravel(), np.float32([4, np.nan, 6]))
        assert origins(tmp_path / "out") == ["s.parquet:7", "s.parquet:8"]
    columns["x"] = pa.array(["1", "2", "3", "4", "5", "many"])
    parquet.write_table(pa.table(columns), tmp_path / "s.parquet")
    with pytest.raises(UserError, match=r"s\.parquet:6: column 'x' holds 'many'; expected a number"):
        wrongs(open_source(data(tmp_path / "s.parquet", target=["kind"])))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("b,2,20,1.0,slow", "b,1,20,1.0,slow", "s.csv:b: lines 2 and 6 have the same time"),
        ("b,2,20,1.0,slow\n", "b,2,20,1.0,fast\n", "s.csv:b: 'kind' is"),
        ("b,2,20,1.0,slow\n", "b,2,20,1.0,slow\nc,1,1,1,slow\n", "s.csv:c: the series has 1 steps"),
        ("b,2,20,1.0,slow\n", "b,2,20,1.0,slow\n,1,1,1,slow\n", "names no series"),
        (
            "b,2,20,1.0,slow\n",
            "b,2,20,1.0,slow\nc,1,1,1,\nc,2,1,1,\n",
            "s.csv:c: the target 'kind' is missing",
        ),
        ("b,2,20,1.0,slow", "b,2,inf,1.0,slow", "s.csv:b: step 2 holds an infinite value"),
    ],
)
def test_a_bad_series_is_told_by_its_name(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = long_table()
    assert old in text
    bad = wrongs(open_source(data(write(tmp_path / "s.csv", text.replace(old, new)), time="t")))
    assert len(bad) == 1
    assert said in bad[0]


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        (
            long_table().replace("20,1.0", "many,1.0"),
            {},
            "s.csv:6: column 'x' holds 'many'; expected a number",
        ),
        (long_table().replace("b,2,20", "b,,20"), {}, "s.csv:6: the time is missing"),
        (
            long_table().replace("b,2,20", "b,late,20"),
            {},
            "s.csv:6: the time is 'late'; the times are neither",
        ),
        (long_table().replace("b,2,20,1.0,slow", "b,2,20"), {}, "s.csv:6: 3 cells; expected 5"),
        (long_table(), {"series_id": "name"}, "data.series_id: 'name' is no column of s.csv"),
        (long_table(), {"drop": ["z"]}, "data.drop: 'z' is no column"),
        (long_table(), {"drop": ["x", "y"]}, "no column left to be a channel"),
        (long_table().replace("y", "x"), {}, "s.csv:1: the column names ['x'] are there twice"),
        ("", {}, "s.csv is empty"),
    ],
)
def test_a_bad_table_is_told_with_its_line_or_column(
    tmp_path: Path, text: str, more: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError) as told:
        wrongs(open_source(data(write(tmp_path / "s.csv", text), **{"time": "t", **more})))
    assert said in str(told.value)


def test_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", long_table())
    write(tmp_path / "b.csv", long_table())
    with pytest.raises(UserError, match=r"the series 'b' lies in a\.csv and in b\.csv"):
        open_source(data(tmp_path, time="t"))
    write(tmp_path / "b.csv", long_table().replace("x", "z"))
    with pytest.raises(UserError, match=r"b\.csv has no column 'x', has a column 'z' more than a\.csv"):
        open_source(data(tmp_path, time="t"))
    write(tmp_path / "c.ts", TS)
    with pytest.raises(UserError, match=r"both \.ts files and tables"):
        open_source(data(tmp_path, time="t"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file that is read here"):
        open_source(data(tmp_path / "empty"))


def test_groups_and_splits_go_with_the_series(tmp_path: Path) -> None:
    parts = {"a": "train", "b": "val", "c": "test"}
    rows = [f"{name},{at},{at},p{name in 'ab'},{parts[name]},{name}" for name in parts for at in range(3)]
    path = write(tmp_path / "s.csv", "\n".join(["id,t,x,person,part,kind", *rows]))
    dataset = taken(open_source(data(path, time="t", group="person", split="part")), tmp_path / "out")
    groups = np.array(dataset.column("group"))
    assert groups[0] == groups[1] != groups[2]
    assert np.array(dataset.column("split")).tolist() == [0, 1, 2]
    assert dataset.spec.input_shape == (1,)
