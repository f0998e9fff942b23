"""Series: `.ts` files are read as a server reads requests; what is wrong is told with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.params import UserError
from pipeline.sources import Data, open_source
from pipeline.transforms import FITS
from serving.inputs.decode import decoder
from tests.walks import TS, data, long_table, origins, taken, write, wrongs


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
        ("?,?:?,?:walk", "the series holds nothing: all 2 steps"),
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


def test_packaged_series_are_whole() -> None:
    found = {name: open_source(Data(source=name)) for name in ("vowels", "plaid")}
    assert {name: len(source) for name, source in found.items()} == {"vowels": 640, "plaid": 1074}
    assert found["plaid"].spec.classes == tuple(map(str, range(11)))
    assert not any(wrongs(source) for source in found.values())


def test_packaged_data_name_the_package_that_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import extras

    monkeypatch.setitem(extras.NEEDS, "vowels", extras.Package("no_such_module", "no_such_package"))
    with pytest.raises(
        UserError, match=r"'no_such_package', which is not installed; run: pip install .*\[examples\]"
    ):
        open_source(Data(source="vowels"))
