"""Forecasts: windows of long series, a split by time that nothing leaks through, and the naive forecast to beat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import forecasting, metrics
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.ingest import Ingest, ingest
from pipeline.prepare import Prepare, write_splits
from pipeline.sources import Data, open_source
from pipeline.splits import apart, by_time
from serving.inputs.decode import decoder
from serving.inputs.spec import Transform

WINDOW, HORIZON = 6, 3


def write(folder: Path, lengths: dict[str, int]) -> dict[str, np.ndarray]:
    """A long table of series of two channels, in falling order of time; gives the values (T, 2) in order."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, lines, values = np.random.default_rng(0), ["id,time,heat,load\n"], {}
    for name, length in lengths.items():
        values[name] = draw.normal(size=(length, 2)).round(3).cumsum(axis=0).round(3)
        rows = [f"{name},{at},{heat},{load}\n" for at, (heat, load) in enumerate(values[name])]
        lines += rows[::-1]
    (folder / "steps.csv").write_text("".join(lines))
    return values


def data_of(folder: Path, **more: object) -> Data:
    given = {"source": "forecast", "path": str(folder), "time": "time", "window": WINDOW, "horizon": HORIZON}
    return Data.model_validate({**given, **more})


def ingested(folder: Path, **more: object) -> Dataset:
    ingest(open_source(data_of(folder / "raw", **more)), Ingest(chunk=7), folder / "ingest")
    return Dataset(folder / "ingest")


def test_windows_are_followed_by_their_targets(tmp_path: Path) -> None:
    values = write(tmp_path / "raw", {"a": 20, "b": 12, "c": 8})
    found = ingested(tmp_path)
    assert found.spec.targets == ("load+1", "load+2", "load+3")
    assert len(found) == (20 - 8) + (12 - 8), "the third series is too short for a window and what follows"
    for at in range(12):
        assert np.allclose(found.inputs[at], values["a"][at : at + WINDOW])
        assert np.allclose(found.targets[at], values["a"][at + WINDOW : at + WINDOW + HORIZON, 1])
    assert np.array(found.column("time"))[:12].tolist() == list(range(8, 20))
    assert np.array(found.column("begin"))[:12].tolist() == list(range(6, 18))


def test_several_channels_are_forecast_and_windows_may_stand_apart(tmp_path: Path) -> None:
    values = write(tmp_path / "raw", {"a": 30})
    found = ingested(tmp_path, target=["load", "heat"], stride=4)
    assert found.spec.targets == ("load+1", "load+2", "load+3", "heat+1", "heat+2", "heat+3")
    assert len(found) == 6
    after = values["a"][4 + WINDOW : 4 + WINDOW + HORIZON]
    assert np.allclose(found.targets[1], [*after[:, 1], *after[:, 0]])


def test_a_request_is_the_window_that_was_ingested(tmp_path: Path) -> None:
    write(tmp_path / "raw", {"a": 20})
    source = open_source(data_of(tmp_path / "raw"))
    chunk = next(source.chunks(100, []))
    decode = decoder(source.spec, tmp_path)
    for at, origin in enumerate(chunk.origins[:3]):
        for request in source.requests([origin])[origin]:
            assert np.array_equal(decode(request.body), chunk.columns["series"][at])


@pytest.mark.parametrize("stride", [1, 2])
def test_no_target_of_training_is_a_target_of_the_test(tmp_path: Path, stride: int) -> None:
    write(tmp_path / "raw", {"a": 200, "b": 150})
    found = ingested(tmp_path, stride=stride)
    begin, end = np.array(found.column("begin")), np.array(found.column("time"))
    split = apart(by_time(end, np.arange(len(end)), Prepare(val=0.2, test=0.2)), begin, end)
    assert all((split == number).sum() > 10 for number in range(3))
    for early, late in ((0, 1), (0, 2), (1, 2)):
        assert end[split == early].max() < begin[split == late].min()
    assert 0 < (split == 3).sum() < 0.1 * len(split), "only windows at the edges are left out"


def test_the_naive_error_of_training_is_what_mase_is_measured_in(tmp_path: Path) -> None:
    values = write(tmp_path / "raw", {"a": 60})["a"][:, 1]
    found = ingested(tmp_path)
    split = np.repeat([0, 1, 2], [30, 11, 11]).astype(np.uint8)
    write_splits(found, split, tmp_path / "out")
    text = (tmp_path / "out" / "transform" / "transform.json").read_text()
    scale = np.array(Transform.model_validate_json(text).naive_error)
    expected = [
        np.mean([abs(values[at + WINDOW + step] - values[at + WINDOW - 1]) for at in range(30)])
        for step in range(HORIZON)
    ]
    assert np.allclose(scale, expected, rtol=1e-4)
    test = Dataset(tmp_path / "out" / "test")
    naive = forecasting.naive(test)
    assert np.allclose(naive, values[41 + WINDOW - 1 : 52 + WINDOW - 1, None], atol=1e-4)
    ones = np.ones((1, len(test)))
    errors = np.abs(naive - test.targets).mean(axis=0)
    assert forecasting.mase(ones, test.targets, naive, scale)[0] == pytest.approx((errors / scale).mean())
    assert forecasting.mase(ones, test.targets, test.targets, scale)[0] == 0


def test_blocks_are_drawn_whole_and_make_intervals_of_alike_samples_wider() -> None:
    alone, blocks = metrics.resamples(300, 400, 0), metrics.resamples(300, 400, 0, block=40)
    assert (alone.sum(1) == 400).all()
    assert (blocks.sum(1) == 400).all()
    assert (np.diff(blocks, axis=1) != 0).mean() < 0.1 < (np.diff(alone, axis=1) != 0).mean()
    alike = np.repeat(np.random.default_rng(1).normal(size=10), 40)  # ten values, forty times each
    assert (blocks @ alike).std() > 3 * (alone @ alike).std()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"horizon": 0}, "data.horizon is 0"),
        ({"window": 500}, "no series has 500 + 3 steps"),
        ({"target": ["lode"]}, "'lode' is no column of steps.csv"),
        ({"time": "when"}, "when"),
    ],
)
def test_what_cannot_be_forecast_is_told(tmp_path: Path, more: dict[str, object], told: str) -> None:
    write(tmp_path / "raw", {"a": 20})
    with pytest.raises(UserError) as error:
        open_source(data_of(tmp_path / "raw", **more))
    assert told in str(error.value)


def test_equal_times_in_a_series_are_told_with_their_lines(tmp_path: Path) -> None:
    write(tmp_path / "raw", {"a": 20})
    with (tmp_path / "raw" / "steps.csv").open("a") as file:
        file.write("a,19,0,0\n")
    with pytest.raises(UserError, match="lines 2 and 22 have the same time"):
        open_source(data_of(tmp_path / "raw"))


def test_windows_before_a_missing_target_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "raw", {"a": 20})
    path = tmp_path / "raw" / "steps.csv"
    lines = path.read_text().splitlines(keepends=True)
    row = next(at for at, line in enumerate(lines) if line.startswith("a,10,"))
    lines[row] = ",".join(lines[row].split(",")[:3]) + ",\n"
    path.write_text("".join(lines))
    found = ingested(tmp_path)
    begin = np.array(found.column("begin"))
    assert not set(begin.astype(int)) & {8, 9, 10}
    assert np.isnan(found.inputs[int(np.flatnonzero(begin == 14)[0])]).sum() == 1, (
        "among the inputs a gap is no harm"
    )
