"""Splits that are not drawn: as a column says, by time, and groups that two groupings hold together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline import prepare
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.prepare import SPLITS, Prepare, splits_of
from pipeline.splits import by_time, merged
from serving.inputs.spec import Column, Role
from tests.conftest import set_params
from tests.modalities import table_rows, table_spec, write

SETTINGS = Prepare()
DTYPES: dict[Role, str] = {"group": "<i8", "split": "|u1", "time": "<f8"}


def ingested(project: Path, count: int, groups: np.ndarray | None = None, **more: np.ndarray) -> Dataset:
    """A table as `ingest` and `validate` leave it, with columns named after their roles."""
    extra = [Column(name=name, role=name, dtype=DTYPES[name]) for name in more]  # type: ignore[arg-type,index]
    folder = project / "data/validate"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "groups.npy", np.arange(count) if groups is None else groups)
    rows, labels = table_rows(count, 3), np.arange(count) % 3
    return write(project / "data/ingest", table_spec("abc", (), *extra), rows, labels, **more)


# Groups


@pytest.mark.parametrize("seed", range(5))
def test_merged_groups_are_the_connected_ones(seed: int) -> None:
    """As SciPy finds them in the graph of both groupings; large numbers and gaps among them are no matter."""
    draw = np.random.default_rng(seed)
    one, two = draw.integers(0, 150, 200) * 10**9, draw.integers(0, 150, 200).astype("S8")
    found = merged(one, two)
    pairs = []
    for by in (one, two):
        _, first, where = np.unique(by, return_index=True, return_inverse=True)
        pairs.append(np.stack([np.arange(200), first[where]]))
    rows, columns = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(200, 200))
    count, expected = connected_components(graph, directed=False)
    assert 1 < count < 150
    assert len(set(zip(found.tolist(), expected.tolist(), strict=True))) == count == len(np.unique(found))


def test_a_chain_of_any_length_is_one_group() -> None:
    at = np.arange(101)
    assert len(np.unique(merged(at // 2, (at + 1) // 2))) == 1
    np.testing.assert_array_equal(merged(at, at), at)


def test_neither_a_users_group_nor_copies_are_divided(project: Path) -> None:
    draw = np.random.default_rng(0)
    copies, group = np.arange(900) // 2, draw.integers(0, 400, 900)
    dataset = ingested(project, 900, copies, group=group)
    split = splits_of(dataset, SETTINGS, 7)
    assert set(split.tolist()) == {0, 1, 2}
    for groups in (copies, group):
        assert all(len(set(split[groups == one].tolist())) == 1 for one in np.unique(groups))


# By time


def test_the_latest_are_the_test_and_those_before_them_validation() -> None:
    times = np.random.default_rng(0).permutation(1_000).astype(float)
    split = by_time(times, np.arange(1_000), SETTINGS)
    assert times[split == 0].max() < times[split == 1].min()
    assert times[split == 1].max() < times[split == 2].min()
    np.testing.assert_allclose(np.bincount(split) / 1_000, (0.7, 0.15, 0.15), atol=0.002)


def test_equal_times_share_a_split() -> None:
    times = np.repeat(np.arange(40.0), 25)
    split = by_time(times, np.arange(1_000), SETTINGS)
    assert all(len(set(split[times == one].tolist())) == 1 for one in np.unique(times))
    np.testing.assert_allclose(np.bincount(split) / 1_000, (0.7, 0.15, 0.15), atol=0.026)


def test_a_group_goes_where_its_latest_sample_goes() -> None:
    times, groups = np.arange(100.0), np.arange(100)
    groups[3] = groups[99] = 200
    groups[10] = groups[80] = 201
    split = by_time(times, groups, SETTINGS)
    assert split[3] == split[99] == 2
    assert split[10] == split[80] == 1
    assert (split[[0, 1, 2, 4]] == 0).all()


def test_the_stage_splits_by_time(project: Path) -> None:
    time = np.random.default_rng(1).random(600) * 1e9
    dataset = ingested(project, 600, time=time)
    prepare.run()
    parts = [np.array(Dataset(prepare.OUTPUT / name).column("time")) for name in SPLITS]
    assert parts[0].max() < parts[1].min() <= parts[1].max() < parts[2].min()
    assert sorted(np.concatenate(parts)) == sorted(time)
    train = Dataset(prepare.OUTPUT / "train")
    np.testing.assert_array_equal(train.inputs, dataset.inputs[np.isin(time, parts[0])])
    set_params(project, {"prepare.test": 0.5})
    prepare.run()
    assert len(Dataset(prepare.OUTPUT / "test")) == pytest.approx(300, abs=2)


def test_one_moment_for_all_cannot_be_split(project: Path) -> None:
    with pytest.raises(UserError, match=r"the split 'val, test' has no samples; see data.split, data.time"):
        splits_of(ingested(project, 90, time=np.full(90, 5.0)), SETTINGS, 7)


# As a column says


def test_a_given_split_is_obeyed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the shares, the seed and the groups are; copies on both sides are told."""
    given = np.random.default_rng(2).integers(0, 3, 300).astype(np.uint8)
    copies = np.arange(300)
    copies[1], copies[5] = 0, 4
    given[[0, 1, 4, 5]] = (0, 2, 1, 1)
    dataset = ingested(project, 300, copies, split=given)
    for seed in (1, 2):
        np.testing.assert_array_equal(splits_of(dataset, Prepare(val=0.4, test=0.4), seed), given)
    assert capsys.readouterr().out == "prepare: 1 groups of copies lie in several of the given splits\n" * 2


@pytest.mark.parametrize(("gone", "name"), [(0, "train"), (1, "val"), (2, "test")])
def test_a_given_split_without_samples_is_refused(project: Path, gone: int, name: str) -> None:
    given = np.arange(300) // 3 % 3
    given[given == gone] = (gone + 1) % 3
    with pytest.raises(UserError, match=f"the split '{name}' has no samples"):
        splits_of(ingested(project, 300, split=given.astype(np.uint8)), SETTINGS, 7)


def test_a_class_that_training_never_sees_is_refused(project: Path) -> None:
    given = np.arange(300) // 3 % 3
    given[1::3] = np.maximum(given[1::3], 1)  # class b
    with pytest.raises(UserError, match="the training split has no sample of b: no model can learn them"):
        splits_of(ingested(project, 300, split=given.astype(np.uint8)), SETTINGS, 7)


def test_a_regression_is_split_by_content(project: Path) -> None:
    """There are no classes to stratify; distinct values of the target are none."""
    ingested(project, 800)
    targets = np.random.default_rng(0).normal(size=(800, 2)).astype(np.float32)
    dataset = write(project / "data/ingest", table_spec((), "xy"), table_rows(800, 3), targets)
    split = splits_of(dataset, SETTINGS, 7)
    np.testing.assert_allclose(np.bincount(split) / 800, (0.7, 0.15, 0.15), atol=0.05)
    prepare.run()
    train = Dataset(prepare.OUTPUT / "train")
    transform = (prepare.OUTPUT / "transform" / "transform.json").read_text()
    assert f"{train.targets[:, 0].astype(float).mean():.9f}"[:9] in transform
