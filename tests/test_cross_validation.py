"""Cross-validation of noise finds nothing: whatever is fitted, made or copied is so within each fold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from pipeline import augment
from pipeline.core.dataset import Dataset, numbered
from pipeline.folds import dealt
from pipeline.oversampling import smote
from tests.conftest import digits, set_params, spec_of
from tests.folding import FOLDS, ids, laid, prepared
from tests.small import table_spec, transform_of

COUNT = 1_200
Parts = tuple[
    tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]
]  # rows and labels to learn, and to judge by


def noise(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, 4) and labels (N,) that have nothing to do with each other, one in five of class 1."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(COUNT, 4)).astype(np.float32), (draw.random(COUNT) < 0.2).astype(np.int64)


def accuracy(parts: Iterator[Parts]) -> float:
    """Cross-validated balanced accuracy of the nearest neighbour, which knows by heart what it saw: 0.5 is chance."""
    found = []
    for (rows, labels), (others, actual) in parts:
        said = KNeighborsClassifier(1).fit(rows, labels).predict(others)
        found.append(balanced_accuracy_score(actual, said))
    return float(np.mean(found))


def written() -> Iterator[Parts]:
    """What tune would be given of each fold."""
    for fold in numbered(FOLDS):
        train, val = Dataset(augment.OUTPUT / "folds" / fold.name), Dataset(fold / "val")
        yield (np.array(train.inputs), train.targets), (np.array(val.inputs), val.targets)


def cut(rows: np.ndarray, labels: np.ndarray, identity: np.ndarray, groups: np.ndarray) -> Iterator[Parts]:
    """Four folds of rows as they are."""
    fold = dealt(identity, labels, groups, 4, 7)
    for at in range(4):
        yield (rows[fold != at], labels[fold != at]), (rows[fold == at], labels[fold == at])


# The planted leaks


def test_oversampling_within_folds_finds_nothing_in_noise_and_before_them_much(project: Path) -> None:
    """SMOTE puts rows between those of the small class: one on either side of a row that is held out gives it away."""
    rows, labels = noise()
    spec = table_spec(["number"] * 4)
    dataset = laid(project, spec, rows, labels)
    set_params(project, {"augment.oversample": "smote", "augment.factor": 0})
    prepared(project, 4)
    augment.run()
    assert accuracy(written()) == pytest.approx(0.5, abs=0.04)
    originals = set(np.array(dataset.column("id")).tolist())
    for fold in numbered(FOLDS):
        made = Dataset(augment.OUTPUT / "folds" / fold.name)
        assert np.ptp(np.bincount(made.targets)) == 0, "it was oversampled"
        assert set(ids(fold / "val")) <= originals
        assert set(ids(made.folder)) & originals == set(ids(fold / "train"))
    assert spec.table is not None
    new, classes = smote(rows, labels, spec.table, transform_of(rows, spec, labels), 7)
    every = np.arange(len(rows) + len(new))
    wrong = cut(np.vstack([rows, new]), np.append(labels, classes), every.astype("S8"), every)
    assert accuracy(wrong) > 0.65, "the test sees the leak when there is one"


def test_near_copies_of_rows_give_nothing_away(project: Path) -> None:
    rows, labels = noise()
    rows[COUNT // 2 :], labels[COUNT // 2 :] = rows[: COUNT // 2] + 1e-5, labels[: COUNT // 2]
    copies = np.arange(COUNT) % (COUNT // 2)
    set_params(project, {"augment.factor": 0})
    laid(project, table_spec(["number"] * 4), rows, labels, copies)
    for scheme in ("plain", "stratified"):
        prepared(project, 4, scheme=scheme)
        augment.run()
        assert accuracy(written()) == pytest.approx(0.5, abs=0.05)
    every = np.arange(COUNT)
    assert accuracy(cut(rows, labels, every.astype("S8"), every)) > 0.8, (
        "the test sees the leak when there is one"
    )


# What augment writes of folds


def test_copies_are_made_of_each_fold_and_of_those_within(project: Path) -> None:
    images, labels = digits(120, 0)
    laid(project, spec_of((1, 28, 28), "0123456789"), images, labels)
    set_params(project, {"augment.factor": 1, "augment.transform.elastic": 0, "augment.transform.shear": 0})
    prepared(project, 2, inner=2)
    augment.run()
    folds = [each for fold in numbered(FOLDS) for each in (fold, *numbered(fold / "inner"))]
    assert len(folds) == 6
    for fold in folds:
        train, made = Dataset(fold / "train"), Dataset(augment.OUTPUT / "folds" / fold.relative_to(FOLDS))
        assert len(made) == 2 * len(train)
        assert ids(made.folder) == 2 * ids(train.folder)
        assert made.spec == train.spec
    before = {name: (augment.OUTPUT / name).read_bytes() for name in ("image.npy", "samples.png")}
    prepared(project, 0)
    augment.run()
    assert {name: (augment.OUTPUT / name).read_bytes() for name in before} == before
    assert not (augment.OUTPUT / "folds").exists(), "what is not asked for costs nothing"
