"""Cross-validation of noise finds nothing: whatever is fitted, made or copied is so within each fold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import FrozenTrial
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from models.params import Model
from pipeline import augment
from pipeline.core.dataset import Dataset, numbered
from pipeline.fitting.fit import Job, Train, fit
from pipeline.fitting.job import make_job
from pipeline.folds import dealt
from pipeline.oversampling import smote
from pipeline.tuning import study as studies
from pipeline.tuning.folded import fold_jobs
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Tune
from tests.conftest import digits, set_params, spec_of
from tests.folding import FOLDS, ids, laid, prepared
from tests.small import CPU, blobs, table_spec, transform_of

COUNT = 1_200
GOOD, BAD = 0.02, 1e-6  # learning rates
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


# Trials


def search(
    project: Path, pruner: str, rates: tuple[float, ...]
) -> tuple[list[FrozenTrial], list[int], tuple[Job, ...]]:
    """Trials of these learning rates on five folds, with the epochs of each; and their jobs."""
    set_params(project, {"augment.factor": 0})
    laid(project, table_spec(["number"] * 4), *blobs(240, 0))
    prepared(project, 5)
    augment.run()
    model = Model(family="fnn", width=8, depth=1, dropout=0.0)
    train = Train(max_epochs=2, batch_size=32, lr=GOOD, patience=0, label_smoothing=0.0)
    jobs = fold_jobs(make_job(model, train, 7, CPU))
    space = {"train.lr": {"choices": [GOOD, BAD]}}
    settings = Tune.model_validate(
        {
            "sampler": "random",
            "pruner": pruner,
            "trials": len(rates),
            "max_epochs": 2,
            "minutes": 60,
            "space": space,
        }
    )
    study = studies.open_study(f"sqlite:///{project}/studies.db", "folds", settings)
    for rate in rates:
        study.enqueue_trial({"train.lr": rate})
    epochs: list[int] = []
    plan = Plan(settings, jobs, 7, project / "trials", CPU)
    Coordinator(study, plan, lambda _, curve: epochs.append(len(curve))).run()
    return studies.ended(study), epochs, jobs


@pytest.mark.parametrize(
    ("pruner", "rates"), [("wilcoxon", (GOOD, BAD, GOOD)), ("median", (GOOD, GOOD, BAD, GOOD, BAD, GOOD))]
)
def test_bad_values_are_given_up_after_some_folds_and_good_ones_see_all(
    project: Path, one_thread: None, pruner: str, rates: tuple[float, ...]
) -> None:
    found, epochs, _ = search(project, pruner, rates)
    assert [trial.params["train.lr"] for trial in found] == list(rates)
    states: dict[float, list[str]] = {GOOD: [], BAD: []}
    for trial, told in zip(found, epochs, strict=True):
        states[trial.params["train.lr"]].append(trial.state.name)
        assert told == 2 * len(trial.intermediate_values), (
            "both epochs of every fold, and no fold after the last"
        )
        assert (len(trial.intermediate_values) < 5) == (trial.state.name == "PRUNED")
    assert set(states[GOOD]) == {"COMPLETE"}
    assert states[BAD][-1] == "PRUNED", "before, median has no four whole trials to compare with"


def test_a_trial_is_the_mean_of_its_folds_which_differ(project: Path, one_thread: None) -> None:
    (trial,), _, jobs = search(project, "wilcoxon", (GOOD,))
    losses = [trial.intermediate_values[at] for at in range(1, 6)]
    assert trial.value == pytest.approx(np.mean(losses))
    assert trial.user_attrs["val_loss_spread"] == pytest.approx(np.std(losses, ddof=1))
    assert len(set(losses)) == 5
    curve: list[float] = []
    fit(jobs[3], [lambda epoch, metrics: curve.append(metrics["val_loss"])])
    assert curve[-1] == pytest.approx(losses[3], rel=1e-6)
    assert jobs[3].transform != jobs[2].transform


# What augment writes of folds


def test_copies_are_made_of_each_fold_and_of_those_within(project: Path, one_thread: None) -> None:
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
