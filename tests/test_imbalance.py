"""Classes of unequal size: what each remedy does, that it helps a rare class, and that only training sees it."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score

from pipeline import augment
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.fitting import batches
from pipeline.fitting.augmentation import Augmentation
from pipeline.fitting.batches import Batches
from pipeline.fitting.fit import assemble, fit
from pipeline.oversampling import aside, smote
from tests.small import blobs, table_job, table_spec, transform_of, write

CPU = torch.device("cpu")


def recall(folder: Path, settings: dict[str, object], seed: int = 0, distance: float = 1.5) -> float:
    """Recall of a rare class (2.5 % of training) that overlaps with the other, on unseen rows."""
    rows, labels = blobs(2000, 1, share=0.1, distance=distance)
    train = blobs(1200, seed, share=0.025, distance=distance)
    served = fit(table_job(folder, train, (rows, labels), {"max_epochs": 12, **settings}), [])
    with torch.inference_mode():
        found = served(torch.from_numpy(rows)).argmax(1).numpy()
    return float(recall_score(labels, found))


@pytest.mark.parametrize(
    "settings",
    [
        {"class_weights": "balanced"},
        {"sampling": "over"},
        {"sampling": "under", "max_epochs": 60, "batch_size": 16},
    ],
)
def test_balancing_finds_a_rare_class(settings: dict[str, object], tmp_path: Path) -> None:
    plain = {name: value for name, value in settings.items() if name not in ("class_weights", "sampling")}
    before, after = recall(tmp_path / "none", plain), recall(tmp_path / "some", settings)
    assert after > before + 0.3, (before, after)


def test_focal_loss_finds_a_little_more_of_a_rare_class(tmp_path: Path) -> None:
    """It moves probabilities towards the middle: a gain of recall that is small and there for every seed."""
    for seed in (0, 10, 20):
        folders = (tmp_path / f"{seed}-{name}" for name in ("none", "focal"))
        before, after = (
            recall(folder, {"focal": gamma}, seed, 2.5)
            for folder, gamma in zip(folders, (0.0, 2.0), strict=True)
        )
        assert after > before + 0.01, (seed, before, after)


# --- sampling


def sampled(folder: Path, sampling: batches.Sampling, epoch: int = 0, seed: int = 1) -> Batches:
    if not folder.exists():
        rows, labels = blobs(110, 0, share=10 / 110)
        write(folder, table_spec(["number"] * 4), rows, labels)
    found = Batches(folder, 32, CPU, seed, sampling)
    found.set_epoch(epoch)
    return found


@pytest.mark.parametrize(("sampling", "each"), [("over", 100), ("under", 10)])
def test_sampling_evens_the_classes(sampling: batches.Sampling, each: int, tmp_path: Path) -> None:
    found = sampled(tmp_path / "data", sampling)
    order = found.order()
    labels = torch.from_numpy(Dataset(tmp_path / "data").targets)[order]
    assert torch.bincount(labels).tolist() == [each, each]
    uses = torch.bincount(order, minlength=110)
    assert uses.max() == (10 if sampling == "over" else 1), "samples of a class are used alike"
    assert not torch.equal(labels.sort().values, labels), "and shuffled"
    assert sum(len(targets) for _, targets in found) == len(order)
    assert found.counts is not None
    assert found.counts.tolist() == [each, each]


@pytest.mark.parametrize("sampling", ["none", "over", "under"])
def test_the_seed_and_the_epoch_decide_alone(sampling: batches.Sampling, tmp_path: Path) -> None:
    orders = [
        sampled(tmp_path / "data", sampling, epoch, seed).order()
        for epoch, seed in ((0, 1), (0, 1), (1, 1), (0, 2))
    ]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[3])


def test_only_training_is_sampled(tmp_path: Path) -> None:
    data = blobs(100, 0, share=0.1)
    _, train, val = assemble(table_job(tmp_path, data, data, {"sampling": "over"}))
    assert len(train.order()) == 180
    assert val.order().tolist() == list(range(100))


def test_weights_after_sampling_do_not_balance_twice(tmp_path: Path) -> None:
    data = blobs(100, 0, share=0.1)
    task, *_ = assemble(table_job(tmp_path, data, data, {"sampling": "over", "class_weights": "balanced"}))
    assert task.loss._weights is not None
    assert task.loss._weights.tolist() == [1.0, 1.0]


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(batches) == (0, 1)


# --- SMOTE


def mixed_table(count: int = 120, rare: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A number of each kind, one with gaps, and a category that is `b` or unknown in the rare class."""
    draw = np.random.default_rng(0)
    labels = (np.arange(count) < rare).astype(np.int64)
    rows = np.stack(
        [
            1000 + 5 * draw.normal(size=count) + 40 * labels, draw.integers(0, 2, count),
            draw.normal(size=count), np.where(labels, draw.choice([0, 2], count), draw.integers(1, 4, count)),
        ],
        axis=1,
    ).astype(np.float32)  # fmt: skip
    rows[::3, 2] = np.nan
    return rows, labels


def test_synthetic_rows_are_such_as_the_class_could_have() -> None:
    rows, labels = mixed_table()
    spec = table_spec(["number", "boolean", "number", "category"])
    assert spec.table is not None
    made, classes = smote(rows, labels, spec.table, transform_of(rows, spec, labels), 0)
    rare = rows[labels == 1]
    assert len(made) == 120 - 2 * 12
    assert made.dtype == np.float32
    assert (classes == 1).all()
    assert rare[:, 0].min() - 0.01 <= made[:, 0].min()
    assert made[:, 0].max() <= rare[:, 0].max() + 0.01
    assert set(made[:, 1]) <= {0, 1}, "booleans stay booleans"
    assert set(made[:, 3]) <= {0, 2}, "categories stay those of the class"
    gaps = np.isnan(made[:, 2])
    assert 0 < gaps.mean() < 1, "what is missing is voted, too"
    assert not np.isnan(made[:, [0, 1, 3]]).any()
    assert len(np.unique(made[:, 0])) == len(made), "no copies"
    again, _ = smote(rows, labels, spec.table, transform_of(rows, spec, labels), 0)
    np.testing.assert_array_equal(made, again)


@pytest.mark.parametrize("kinds", [["number"], ["category"], ["boolean", "category"]])
def test_tables_of_one_kind_of_field(kinds: list[str]) -> None:
    rows, labels = mixed_table()
    columns = {"number": 0, "boolean": 1, "category": 3}
    rows = rows[:, [columns[kind] for kind in kinds]]
    spec = table_spec(kinds)
    assert spec.table is not None
    made, _ = smote(rows, labels, spec.table, transform_of(rows, spec, labels), 0)
    assert len(made) == 96
    if "category" in kinds:
        assert set(made[:, -1]) <= {0, 2}


@pytest.mark.parametrize(("rare", "expected"), [(1, 0), (2, 116), (60, 0)])
def test_classes_too_small_or_large_enough_are_left_alone(rare: int, expected: int) -> None:
    rows, labels = mixed_table(120, rare)
    spec = table_spec(["number", "boolean", "number", "category"])
    assert spec.table is not None
    made, _ = smote(rows, labels, spec.table, transform_of(rows, spec, labels), 0)
    assert len(made) == expected


def test_the_stage_writes_originals_then_synthetic_rows_with_ids_of_their_own(tmp_path: Path) -> None:
    rows, labels = mixed_table()
    spec = table_spec(["number", "boolean", "number", "category"])
    train = Dataset(write(tmp_path / "train", spec, rows, labels))
    settings = augment.Augment(factor=1, oversample="smote", transform=Augmentation(noise=0.1))
    count = augment.augment(train, transform_of(rows, spec, labels), settings, 0, tmp_path / "out")
    made = Dataset(tmp_path / "out")
    assert count == len(made) == 2 * 216
    np.testing.assert_array_equal(made.inputs[:120], rows)
    assert np.bincount(made.targets).tolist() == [216, 216]
    ids = np.array(made.column("id"))
    assert len(set(ids[:216])) == len(set(ids[:120])) + 96
    np.testing.assert_array_equal(ids[216:], ids[:216])


def test_columns_that_no_model_sees() -> None:
    assert aside(np.array([3, 7, 5]), "group", 2).tolist() == [8, 9]
    assert aside(np.array([1.5, 2.5]), "time", 2).tolist() == [2.5, 2.5]


def test_smote_is_refused_where_there_are_no_classes_of_a_table(tmp_path: Path) -> None:
    rows = np.ones((10, 2), np.float32)
    spec = table_spec(["number"] * 2, targets=1)
    data = Dataset(write(tmp_path / "train", spec, rows, rows[:, :1]))
    with pytest.raises(
        UserError, match=r"oversample: 'smote' makes rows of tables with classes.*table regression"
    ):
        augment.augment(
            data,
            transform_of(rows, spec, rows[:, :1]),
            augment.Augment(oversample="smote"),
            0,
            tmp_path / "out",
        )
