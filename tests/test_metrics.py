"""Weighted metrics against scikit-learn, their bootstrap against what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference

from pipeline import metrics
from pipeline.core import resampling
from pipeline.core.ranking import mean_of_known
from pipeline.evaluate import Evaluate, judge
from pipeline.metrics import METRICS, Resamples, interval, resamples

CLASSES = 5


def drawn(
    seed: int, count: int = 120, ties: bool = False, missing: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and probabilities (N, K) that are right more often than not."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES - missing, count)
    scores = draw.exponential(size=(count, CLASSES)) + 1.5 * np.eye(CLASSES)[labels] * draw.random((count, 1))
    scores = np.round(scores, 0) + 0.5 if ties else scores
    return labels, (scores / scores.sum(1, keepdims=True)).astype(np.float32)


def by_scikit_learn(name: str, weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> float:
    """One resample's metric; what was not drawn is left out, and so are classes that do not occur."""
    kept = weights > 0
    weights, labels, probabilities = weights[kept], labels[kept], probabilities[kept].astype(float)
    present, said = np.unique(labels), probabilities.argmax(1)
    if name == "accuracy":
        return reference.accuracy_score(labels, said, sample_weight=weights)
    if name == "balanced_accuracy":
        return reference.recall_score(
            labels, said, labels=present, average="macro", sample_weight=weights, zero_division=0
        )
    if name == "macro_f1":
        return reference.f1_score(
            labels, said, labels=present, average="macro", sample_weight=weights, zero_division=0
        )
    if name == "log_loss":
        return reference.log_loss(labels, probabilities, labels=np.arange(CLASSES), sample_weight=weights)
    one_class = {"roc_auc": reference.roc_auc_score, "average_precision": reference.average_precision_score}[
        name
    ]
    return np.mean([one_class(labels == k, probabilities[:, k], sample_weight=weights) for k in present])


def calibration_by_hand(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> float:
    total = 0.0
    for low in range(15):
        won, weight, sure = 0.0, 0.0, 0.0
        for one, label, row in zip(weights, labels, probabilities, strict=True):
            if low < max(row) * 15 <= low + 1:
                won += one * (np.argmax(row) == label)
                weight += one
                sure += one * max(row)
        if weight:
            total += weight * abs(won / weight - sure / weight)
    return total / sum(weights)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_every_metric_is_scikit_learns(name: str, ties: bool, missing: bool) -> None:
    labels, probabilities = drawn(3, ties=ties, missing=missing)
    weights = np.vstack([np.ones((1, len(labels))), resamples(12, len(labels), 0)])
    weights[-1, labels == 1] = 0  # a resample that drew nothing of one class
    found = METRICS[name](weights, labels, probabilities)
    assert found.shape == (13,)
    if name == "calibration_error":
        expected = [calibration_by_hand(row, labels, probabilities) for row in weights]
    else:
        expected = [by_scikit_learn(name, row, labels, probabilities) for row in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len(set(found.round(6))) > 5, "the resamples differ, so that agreement means something"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", METRICS)
def test_a_resample_of_one_class_gives_no_warning(name: str) -> None:
    labels, probabilities = drawn(5, count=30)
    weights = np.ones((2, 30))
    weights[1, labels != 2] = 0
    found = METRICS[name](weights, labels, probabilities)
    assert np.isnan(found).tolist() == [False, name == "roc_auc"]


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_the_mean_of_known_values_is_numpys() -> None:
    values = np.random.default_rng(0).normal(size=(7, 50))
    values[values > 0.5] = np.nan
    values[:, 3] = np.nan
    for axis in (0, 1):
        np.testing.assert_array_equal(mean_of_known(values, axis), np.nanmean(values, axis))


@pytest.mark.parametrize("missing", [False, True])
def test_per_class_and_confusion_are_scikit_learns(missing: bool) -> None:
    labels, probabilities = drawn(4, missing=missing)
    weights, said, every = resamples(5, len(labels), 0), probabilities.argmax(1), np.arange(CLASSES)
    table = metrics.confusion(weights, labels, probabilities)
    scores = metrics.per_class(weights, labels, probabilities)
    for at, row in enumerate(weights):
        expected = reference.confusion_matrix(labels, said, labels=every, sample_weight=row)
        np.testing.assert_array_equal(table[at], expected)
        known = reference.precision_recall_fscore_support(
            labels, said, labels=every, sample_weight=row, zero_division=0
        )
        for mine, theirs in zip(scores, known, strict=False):
            np.testing.assert_allclose(
                np.nan_to_num(mine[at])[expected.sum(1) > 0], theirs[expected.sum(1) > 0]
            )
            assert np.isnan(mine[at][expected.sum(1) == 0]).all(), "a class that does not occur has no score"


def test_a_perfect_and_a_constant_model() -> None:
    labels = np.arange(40) % CLASSES
    ones, perfect = np.ones((1, 40)), np.eye(CLASSES, dtype=np.float32)[labels]
    for name in METRICS:
        best = 0.0 if name in metrics.LOWER_IS_BETTER else 1.0
        assert METRICS[name](ones, labels, perfect)[0] == pytest.approx(best, abs=1e-6), name
    flat = np.full((40, CLASSES), 0.2, np.float32)
    assert METRICS["roc_auc"](ones, labels, flat)[0] == pytest.approx(0.5)
    assert METRICS["log_loss"](ones, labels, flat)[0] == pytest.approx(np.log(5))
    assert METRICS["log_loss"](ones, labels, 1 - perfect)[0] < 20, "sure and wrong is bad, not infinite"


@pytest.mark.parametrize(
    ("confidence", "number"),
    [(1.0, 14), (1 / 15, 0), (1 / 15 + 1e-6, 1), (0.5, 7), (1e-9, 0), (14 / 15 + 1e-6, 14)],
)
def test_bins_are_open_below_and_closed_above(confidence: float, number: int) -> None:
    assert metrics.bins(np.array([confidence]))[0] == number


def test_resamples_are_seeded_draws_with_replacement() -> None:
    weights = resamples(400, 50, 3)
    assert weights.shape == (400, 50)
    assert (weights.sum(1) == 50).all()
    assert (weights == np.rint(weights)).all()
    assert weights.min() == 0
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.25)
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.05), "binomial(N, 1/N)"
    np.testing.assert_array_equal(weights, resamples(400, 50, 3))
    assert (weights != resamples(400, 50, 4)).any()


@pytest.mark.parametrize(
    ("name", "truth"), [("accuracy", 0.9), ("log_loss", None), ("balanced_accuracy", 0.9)]
)
def test_the_interval_covers_the_truth_about_as_often_as_it_says(name: str, truth: float | None) -> None:
    """400 test sets of 250 samples from one model; 400 trials of 0.95 have a deviation of 0.011."""
    draw = np.random.default_rng(11)
    weights, covered = resamples(300, 250, 0), 0
    levels = np.array([0.55, 0.7, 0.9, 0.97])
    truth = float(-np.mean(np.log(levels))) if truth is None else truth
    for _ in range(400):
        labels = draw.integers(0, 2, 250)
        coin = np.where(draw.random(250) < 0.9, 0.8, 0.2)
        right = draw.choice(levels, 250) if name == "log_loss" else coin
        probabilities = np.where(np.arange(2) == labels[:, None], right[:, None], 1 - right[:, None])
        low, high = interval(METRICS[name](weights, labels, probabilities), 0.95)
        covered += low <= truth <= high
    assert 0.91 < covered / 400 < 0.98


def test_the_interval_takes_the_middle() -> None:
    values = np.append(np.arange(1001.0), np.nan)
    np.testing.assert_allclose(interval(values, 0.9), (50, 950))


def test_draws_come_in_pieces_that_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 4):
        whole = resamples(50, 30, 3, block)
        monkeypatch.setattr(resampling, "CELLS", 30 * 7)
        pieces = Resamples(50, 30, 3, block)
        assert [len(piece) for piece in pieces] == [7] * 7 + [1]
        np.testing.assert_array_equal(np.concatenate(list(pieces)), whole)
        monkeypatch.undo()


def test_an_interval_of_many_samples_takes_bounded_memory() -> None:
    """All at once, 160 MB of weights alone."""
    import tracemalloc

    labels = np.arange(20_000) % 2
    said = np.stack([1 - labels, labels], 1).astype(np.float32)
    tracemalloc.start()
    judge({"accuracy": metrics.accuracy}, labels, said, Evaluate(resamples=2000), 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 4 * resampling.CELLS
