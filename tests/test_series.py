"""Series: `.ts` files and long tables are read as a server reads requests; what is wrong is told with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.extras import missing
from pipeline.ingest import Ingest, ingest
from pipeline.sources import Data, Source, open_source
from pipeline.transforms import FITS
from serving.inputs.decode import decoder

HEAD = """# made by hand
@problemName Walks
@timeStamps false
@missing true
@univariate false
@dimensions 2
@equalLength false
@classLabel true walk run
@data
"""
TS = HEAD + "1,2,?:4,5,6:walk\n1.5,2:-3e-2,?:run\n\n7,8,9,?:1,1,1,?:walk\n"


def data(path: Path, **more: object) -> Data:
    return Data.model_validate({"source": "series", "path": str(path), **more})


def taken(source: Source, folder: Path, size: int = 512) -> Dataset:
    ingest(source, Ingest(chunk=size), folder)
    return Dataset(folder)


def wrongs(source: Source) -> list[str]:
    bad: list[str] = []
    list(source.chunks(100, bad))
    return bad


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def origins(folder: Path) -> list[str]:
    return [line.split(",")[1] for line in (folder / "manifest.csv").read_text().splitlines()[1:]]


def test_a_ts_file_becomes_ragged_series(tmp_path: Path) -> None:
    dataset = taken(open_source(data(write(tmp_path / "w.ts", TS))), tmp_path / "out")
    assert dataset.spec.classes == ("run", "walk")
    assert dataset.spec.series is not None
    assert dataset.spec.series.channels == ("dim_1", "dim_2")
    assert dataset.targets.tolist() == [1, 0, 1]
    expected = [[[1, 4], [2, 5], [np.nan, 6]], [[1.5, -0.03], [2, np.nan]], [[7, 1], [8, 1], [9, 1]]]
    for at, steps in enumerate(expected):
        np.testing.assert_array_equal(dataset.inputs[at], np.array(steps, np.float32))
    assert origins(tmp_path / "out") == ["w.ts:10", "w.ts:11", "w.ts:13"]


def test_train_and_test_files_are_read_together(tmp_path: Path) -> None:
    write(tmp_path / "w_TRAIN.ts", TS)
    write(tmp_path / "w_TEST.ts", TS.replace("walk run", "walk run rest").replace("1.5,2:", "2.5,2:"))
    (tmp_path / "notes.txt").write_text("left out")
    source = open_source(data(tmp_path))
    assert len(source) == 6
    assert source.spec.classes == ("rest", "run", "walk")
    assert source.left_out() == ["notes.txt"]


def test_a_ts_file_of_targets_is_a_regression(tmp_path: Path) -> None:
    text = "@univariate true\n@targetlabel true\n@data\n1,2,3:0.5\n4,5:-2\n"
    dataset = taken(open_source(data(write(tmp_path / "r.ts", text))), tmp_path / "out")
    assert dataset.spec.task == "regression"
    np.testing.assert_array_equal(dataset.targets, np.array([[0.5], [-2]], np.float32))
    bad = write(tmp_path / "r.ts", text.replace("-2", "high"))
    assert "r.ts:5: the target 'target' holds 'high'" in wrongs(open_source(data(bad)))[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,2:3,4", "has 1 dimensions before its label; expected 2"),
        ("1,2:3,4,5:walk", "dimension 2 has 3 steps; the first has 2"),
        ("1,2:3,x:walk", "dimension 2 holds 'x'; expected a number or '?'"),
        ("1:2:walk", "the series has 1 steps; expected 2 to 4096"),
        ("?,?:?,?:walk", "the series has 0 steps"),
        ("1,1e39:2,3:walk", "step 1 holds an infinite value"),
        ("1,inf:2,3:walk", "step 1 holds an infinite value"),
        ("1,2:3,4:swim", "the class 'swim' is none of run, walk"),
        ("1,2:3,4:", "the target 'label' is missing"),
    ],
)
def test_a_bad_line_is_told_with_its_place_beside_the_good(tmp_path: Path, line: str, said: str) -> None:
    bad = wrongs(open_source(data(write(tmp_path / "w.ts", f"{TS}{line}\n"))))
    assert len(bad) == 1
    assert bad[0].startswith("w.ts:14: ")
    assert said in bad[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("@data\n", "", "line 9: expected a line that begins with '@'"),
        ("@timeStamps false", "@timeStamps true", "line 3: series with time stamps"),
        ("@classLabel true walk run", "@classLabel false", "nothing to learn from"),
        ("@classLabel true walk run", "@classLabel true walk", "line 8: expected two classes"),
        ("@dimensions 2", "@dimensions two", "line 6: '@dimensions' is 'two'"),
        ("@missing true", "@mising true", "line 4: unknown key '@mising'"),
        ("@univariate false", "@univariate maybe", "line 5: '@univariate' is 'maybe'"),
    ],
)
def test_a_bad_head_is_told_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UserError, match=r"w\.ts") as told:
        open_source(data(write(tmp_path / "w.ts", TS.replace(old, new))))
    assert said in str(told.value)


def long_table(steps: int = 3) -> str:
    """Two series, their steps mixed and out of order; the column of targets is the last."""
    rows = [f"b,{at},{at * 10},{'NA' if at == 1 else at / 2},slow" for at in range(steps)]
    rows += [f"a,{at / 4},{-at},{at}e-1,fast" for at in range(steps)]
    return "id,t,x,y,kind\n" + "\n".join([*rows[1::2], *rows[::2]]) + "\n"


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
        (long_table().replace("20,1.0", "many,1.0"), {}, "line 6, column 'x'"),
        (long_table().replace("b,2,20", "b,,20"), {}, "line 6: the time is missing"),
        (long_table().replace("b,2,20", "b,late,20"), {}, "the times are neither all numbers"),
        (long_table().replace("b,2,20,1.0,slow", "b,2,20"), {}, "line 6: Expected 5 columns, got 3"),
        (long_table(), {"series_id": "name"}, "data.series_id: 'name' is no column of s.csv"),
        (long_table(), {"drop": ["z"]}, "data.drop: 'z' is no column"),
        (long_table(), {"drop": ["x", "y"]}, "no column left to be a channel"),
        (long_table().replace("y", "x"), {}, "the name 'x' is given to two columns"),
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


@pytest.mark.parametrize("kind", ["ts", "lone.ts", "csv"])
def test_every_request_decodes_to_the_row_that_was_ingested(tmp_path: Path, kind: str) -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(0, 1e3, (9, 2)).round(7)
    lone = "@univariate true\n@classLabel true u v\n@data\n0.1,?,-3e-7:u\n16777217,2:v\n"
    own = [f"a,{at},{x!r},{y!r},k" for at, (x, y) in enumerate(values.tolist())]
    own += ["b,0,,,m", "b,1,0.1,", "b,2,,3"]
    table = "id,t,x,y,kind\n" + "\n".join([*own[:-2], own[-2] + ",m", own[-1] + ",m"])
    text = {"ts": TS, "lone.ts": lone, "csv": table}[kind]
    source = open_source(data(write(tmp_path / f"s.{kind}", text), time="t" if kind == "csv" else ""))
    dataset = taken(source, tmp_path / "out")
    decode = decoder(dataset.spec, tmp_path)
    places = origins(tmp_path / "out")
    found = source.requests(places)
    assert found.keys() == set(places)
    for row, place in enumerate(places):
        assert [request.suffix for request in found[place]] == ["json", "csv"]
        for request in found[place]:
            np.testing.assert_array_equal(decode(request.body), dataset.inputs[row])


@pytest.mark.parametrize("name", ["w.ts", "s.csv"])
def test_chunks_of_any_size_give_the_same_data(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, TS if name == "w.ts" else long_table())
    wanted = data(path, time="" if name == "w.ts" else "t")
    for size in (1, 2, 512):
        taken(open_source(wanted), tmp_path / str(size), size)
    files = sorted(file.name for file in (tmp_path / "1").iterdir())
    assert {"series.npy", "series.offsets.npy", "label.npy", "id.npy", "manifest.csv"} <= set(files)
    for file in files:
        contents = {(tmp_path / str(size) / file).read_bytes() for size in (1, 2, 512)}
        assert len(contents) == 1, file


def test_what_is_fitted_knows_training_series_alone_and_no_padding(tmp_path: Path) -> None:
    import torch

    from models.fronts import FRONTS

    dataset = taken(open_source(data(write(tmp_path / "w.ts", TS))), tmp_path / "out")
    train = np.array([True, True, False])
    transform = FITS["series"](dataset, train, tmp_path).transform
    steps = np.concatenate([dataset.inputs[0], dataset.inputs[1]]).astype(np.float64)
    np.testing.assert_allclose(transform.mean, np.nanmean(steps, axis=0))
    np.testing.assert_allclose(transform.std, np.nanstd(steps, axis=0))
    front = FRONTS["series"](dataset.spec, transform)
    alone = front(torch.from_numpy(dataset.inputs[1][None]))
    padded = front(torch.from_numpy(dataset.inputs[[1, 0]].padded(float("nan"))))
    torch.testing.assert_close(padded[:1, :2], alone)
    assert not padded[0, 2:].any()


@pytest.mark.skipif(bool(missing("vowels")), reason="the extra 'examples' is not installed")
def test_packaged_series_are_whole() -> None:
    found = {name: open_source(Data(source=name)) for name in ("vowels", "plaid")}
    assert {name: len(source) for name, source in found.items()} == {"vowels": 640, "plaid": 1074}
    assert found["plaid"].spec.classes == tuple(map(str, range(11)))
    assert not any(wrongs(source) for source in found.values())


def test_packaged_data_name_the_package_that_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import extras

    monkeypatch.setitem(extras.NEEDS, "vowels", "no_such_package")
    with pytest.raises(
        UserError, match=r"'no_such_package', which is not installed; run: pip install .*\[examples\]"
    ):
        open_source(Data(source="vowels"))
