"""The figures of a regression, against scikit-learn; and that a comparison knows that a smaller error is better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as reference

from pipeline import metrics, regression
from pipeline.compare import baseline, decide, difference
from pipeline.evaluate import Evaluate, judge
from pipeline.golden import spread
from serving.inputs.spec import Column, DataSpec

REFERENCE = {
    "rmse": reference.root_mean_squared_error,
    "mse": reference.mean_squared_error,
    "mae": reference.mean_absolute_error,
    "r2": reference.r2_score,
}


def answers(n: int, targets: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N, M) of unlike scales, and answers that are off by so many of their deviations, float32."""
    draw = np.random.default_rng(seed)
    scale = 10.0 ** np.arange(targets)
    true = draw.normal(size=(n, targets)) * scale + 3 * scale
    return true.astype(np.float32), (true + noise * draw.normal(size=true.shape) * scale).astype(np.float32)


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("name", REFERENCE)
def test_every_metric_is_scikit_learns(name: str, targets: int) -> None:
    true, said = answers(200, targets, 0.5)
    weights = metrics.resamples(5, len(true), seed=1)
    found = metrics.BY_TASK["regression"][name](weights, true, said)
    expected = [REFERENCE[name](true, said, sample_weight=row) for row in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert metrics.BY_TASK["regression"].keys() == REFERENCE.keys()


def test_r2_of_a_constant_target_is_not_defined() -> None:
    ones = np.ones((1, 4))
    assert np.isnan(regression.r2(ones, np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)))


def test_evaluate_reports_each_with_an_interval_that_holds_it() -> None:
    true, said = answers(300, 1, 0.3)
    report = judge("regression", true, said, Evaluate(resamples=300), seed=7)
    assert list(report) == ["rmse", "mse", "mae", "r2"]
    for name, entry in report.items():
        assert entry["value"] == pytest.approx(REFERENCE[name](true, said), rel=1e-5)
        assert entry["low"] < entry["value"] < entry["high"]


@pytest.mark.parametrize("name", REFERENCE)
def test_the_nearer_answers_are_better_in_every_metric(name: str) -> None:
    true, near = answers(300, 2, 0.2)
    far = answers(300, 2, 0.4)[1]
    weights = metrics.resamples(300, len(true), seed=3)
    found = difference("regression", name, weights, true, near, far, 0.95)
    assert 0 < found.low <= found.value <= found.high
    assert decide(found, 0, "the other", name)[0] == "promoted"
    back = difference("regression", name, weights, true, far, near, 0.95)
    assert back.value == pytest.approx(-found.value)
    assert decide(back, 0, "the other", name)[0] == "rejected"


def test_the_baseline_answers_the_means() -> None:
    true, said = answers(100, 2, 0.1)
    trivial = baseline("regression", true, 2)
    np.testing.assert_allclose(trivial[[0, -1]], [true.mean(0)] * 2, rtol=1e-6)
    weights = metrics.resamples(200, 100, seed=0)
    assert difference("regression", "r2", weights, true, said, trivial, 0.95).low > 0.9


def test_golden_requests_are_spread_over_the_answers() -> None:
    outputs = np.random.default_rng(0).permutation(100).astype(np.float32)[:, None]
    assert outputs[spread(outputs, 5), 0].tolist() == [0, 24, 49, 74, 99]
    assert len(spread(outputs[:3], 16)) == 3


def test_the_pictures_and_the_table_of_residuals_are_written(tmp_path: Path) -> None:
    true, said = answers(50, 2, 0.1)
    column = Column(name="row", role="input", dtype="<f4", shape=(1,))
    spec = DataSpec(modality="table", task="regression", source="t", columns=(column,), targets=("a", "b"))
    regression.draw(spec, true, said, tmp_path)
    lines = (tmp_path / "residuals.csv").read_text().splitlines()
    assert lines[0] == "target,true,said,residual"
    assert len(lines) == 101
    assert [line.split(",")[0] for line in (lines[1], lines[-1])] == ["a", "b"]
    assert float(lines[1].split(",")[3]) == pytest.approx(said[0, 0] - true[0, 0], rel=1e-4)
    assert (tmp_path / "residuals.png").stat().st_size > 5000


def test_what_is_pictured_is_spread_over_all_rows(tmp_path: Path) -> None:
    true = np.arange(12_000, dtype=np.float32)[:, None]
    column = Column(name="row", role="input", dtype="<f4", shape=(1,))
    spec = DataSpec(modality="table", task="regression", source="t", columns=(column,), targets=("a",))
    regression.draw(spec, true, true, tmp_path)
    lines = (tmp_path / "residuals.csv").read_text().splitlines()
    assert len(lines) == 1 + regression.SHOWN
    assert (lines[1].split(",")[1], lines[-1].split(",")[1]) == ("0.0", "11999.0")
