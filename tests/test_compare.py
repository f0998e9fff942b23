"""Promotion by a paired bootstrap: who is promoted, how sure that is, and how seldom it errs."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.compare import baseline, decide, difference
from pipeline.core.resampling import Difference
from pipeline.metrics import METRICS, interval, resamples

COUNT = 400
WEIGHTS = resamples(500, COUNT, 0)
LABELS = np.arange(COUNT) % 2


def told(found: Difference, margin: float) -> str:
    return decide(found, margin, "the serving model", "accuracy")[0]


def answers(right: np.ndarray) -> np.ndarray:
    """Probabilities (N, 2) of a model that is right where `right` (N,) says so."""
    said = np.where(right, LABELS, 1 - LABELS)
    return np.where(np.arange(2) == said[:, None], np.float32(0.8), np.float32(0.2))


@pytest.mark.parametrize(
    ("low", "value", "high", "margin", "verdict"),
    [
        (0.001, 0.01, 0.02, 0.0, "promoted"),
        (0.001, 0.01, 0.02, 0.005, "promoted"),
        (-0.004, 0.002, 0.01, 0.005, "promoted"),
        (-0.004, -0.003, -0.001, 0.005, "promoted"),
        (-0.006, 0.002, 0.01, 0.005, "inconclusive"),
        (-0.004, 0.002, 0.01, 0.0, "inconclusive"),
        (0.0, 0.0, 0.0, 0.0, "inconclusive"),
        (0.0, 0.0, 0.0, 0.005, "promoted"),
        (-0.005, 0.0, 0.01, 0.005, "inconclusive"),
        (-0.03, -0.02, -0.01, 0.0, "rejected"),
        (-0.03, -0.02, -0.01, 0.005, "rejected"),
    ],
)
def test_the_verdict(low: float, value: float, high: float, margin: float, verdict: str) -> None:
    assert told(Difference(value, low, high), margin) == verdict


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.01, 0.02, "better"), (-0.02, -0.01, "worse"), (-1, 1, "stays")]
)
def test_the_reason_says_all_that_was_decided_on(low: float, high: float, word: str) -> None:
    reason = decide(Difference((low + high) / 2, low, high), 0.005, "version 3", "macro_f1")[1]
    assert word in reason
    for part in ("macro_f1", "version 3", f"{low:+.4f}", f"{high:+.4f}", f"{(low + high) / 2:+.4f}"):
        assert part in reason


@pytest.mark.parametrize("metric", METRICS)
def test_better_is_positive_in_every_metric(metric: str) -> None:
    """Also where lower is better; and the other way round the same is as much worse."""
    draw = np.random.default_rng(0)
    good, bad = answers(draw.random(COUNT) < 0.85), answers(draw.random(COUNT) < 0.6)
    if metric == "calibration_error":
        bad = np.where(bad > 0.5, np.float32(0.99), np.float32(0.01))
    found = difference(METRICS, metric, [WEIGHTS], LABELS, good, bad, 0.95)
    assert 0 < found.low < found.value < found.high
    assert told(found, 0.0) == "promoted"
    other = difference(METRICS, metric, [WEIGHTS], LABELS, bad, good, 0.95)
    assert (other.value, other.low, other.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert told(other, 0.005) == "rejected"


def test_the_value_is_the_plain_difference() -> None:
    right = np.arange(COUNT) < 300
    found = difference(
        METRICS,
        "accuracy",
        [WEIGHTS],
        LABELS,
        answers(right),
        answers(right & (np.arange(COUNT) >= 20)),
        0.95,
    )
    assert found.value == pytest.approx(20 / 400)
    assert found.low == pytest.approx(0.05 - 1.96 * np.sqrt(0.05 * 0.95 / 400), abs=0.006)
    assert found.high == pytest.approx(0.05 + 1.96 * np.sqrt(0.05 * 0.95 / 400), abs=0.006)


def test_a_model_is_never_better_than_itself() -> None:
    same = answers(np.random.default_rng(0).random(COUNT) < 0.8)
    found = difference(METRICS, "accuracy", [WEIGHTS], LABELS, same, same, 0.95)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert told(found, 0.0) == "inconclusive"


def test_pairing_tells_apart_what_independent_resamples_cannot() -> None:
    """Two models that agree on nearly every sample: the sample's difficulty cancels out."""
    draw = np.random.default_rng(0)
    right = draw.random(COUNT) < 0.8
    mine, other = right.copy(), right
    mine[np.flatnonzero(~right)[:12]] = True
    paired = difference(METRICS, "accuracy", [WEIGHTS], LABELS, answers(mine), answers(other), 0.95)
    function, again = METRICS["accuracy"], resamples(500, COUNT, 1)
    apart = function(WEIGHTS, LABELS, answers(mine)) - function(again, LABELS, answers(other))
    low, high = interval(apart, 0.95)
    assert paired.high - paired.low < 0.5 * (high - low)
    assert paired.low > 0 > low


def promotions(gain: float, margin: float, trials: int = 2_000) -> float:
    """How often a model whose true accuracy is 0.85 + `gain` is promoted over one of 0.85."""
    draw, count = np.random.default_rng(5), 0
    for _ in range(trials):
        hard = draw.random(COUNT)
        mine = (hard + 0.2 * draw.random(COUNT)) < 0.95 + gain
        other = (hard + 0.2 * draw.random(COUNT)) < 0.95
        found = difference(METRICS, "accuracy", [WEIGHTS], LABELS, answers(mine), answers(other), 0.95)
        count += told(found, margin) == "promoted"
    return count / trials


def test_an_equal_model_is_seldom_promoted() -> None:
    """A one-sided error of 2.5 %; the simulation itself deviates by 0.35 % and the percentile by a little."""
    assert 0.005 < promotions(0.0, 0.0) <= 0.035


def test_a_better_one_often_is_and_one_worse_by_the_margin_seldom() -> None:
    assert promotions(0.05, 0.0, 300) > 0.6
    assert promotions(-0.02, 0.02, 1_000) <= 0.04
    assert promotions(0.0, 0.02, 300) > 2 * promotions(0.0, 0.0, 300) + 0.1


def test_the_baseline_answers_the_frequencies() -> None:
    found = baseline("classification", np.array([0, 0, 0, 2]), 4)
    assert found.shape == (4, 4)
    np.testing.assert_allclose(found, np.tile([0.75, 0, 0.25, 0], (4, 1)))
