"""Regression: weighted metrics against scikit-learn, and promotion over the mean of the targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as reference

from pipeline import promote, regression
from pipeline.compare import baseline, decide, difference
from pipeline.core.params import UserError
from pipeline.evaluate import Evaluate, judge
from pipeline.metrics import BY_TASK, LOWER_IS_BETTER, resamples
from pipeline.promote import Metric, Promote
from serving.inputs.spec import Column, DataSpec, Transform, write_json
from tests.modalities import table_rows, table_spec, write

KNOWN = {
    "mse": reference.mean_squared_error,
    "rmse": reference.root_mean_squared_error,
    "mae": reference.mean_absolute_error,
    "r2": reference.r2_score,
}
METRICS = BY_TASK["regression"]


def drawn(count: int, seed: int, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Two targets (N, 2) of unlike scale, one of them far from zero, and outputs near them."""
    draw = np.random.default_rng(seed)
    targets = draw.normal(size=(count, 2)) * (1, 300) + (1e6, -40)
    outputs = targets + noise * draw.normal(size=(count, 2)) * (1, 300)
    return targets.astype(np.float32), outputs.astype(np.float32)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("columns", [1, 2])
def test_every_metric_is_scikit_learns(name: str, columns: int) -> None:
    assert KNOWN.keys() == METRICS.keys()
    targets, outputs = (each[:, :columns] for each in drawn(150, 3))
    weights = np.vstack([np.ones((1, 150)), resamples(12, 150, 0)])
    found = METRICS[name](weights, targets, outputs)
    truth, said = targets.astype(float), outputs.astype(float)
    expected = [KNOWN[name](truth, said, sample_weight=row) for row in weights]
    assert found.shape == (13,)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(set(found.round(6))) > 10, "the resamples differ, so that agreement means something"


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -3e-7])
def test_a_constant_target_has_no_share_of_variance_to_explain(value: float) -> None:
    targets = np.full((40, 1), value, np.float32)
    weights = np.vstack([np.ones((1, 40)), resamples(20, 40, 0)])
    assert np.isnan(regression.r2(weights, targets, targets + np.float32(0.1))).all()


def test_a_perfect_model_and_the_mean() -> None:
    targets, _ = drawn(60, 1)
    ones = np.ones((1, 60))
    for name, metric in METRICS.items():
        assert metric(ones, targets, targets)[0] == pytest.approx(float(name not in LOWER_IS_BETTER))
    mean = baseline("regression", targets, 2)
    np.testing.assert_allclose(mean, np.tile(targets.astype(float).mean(0), (60, 1)))
    assert regression.r2(ones, targets, mean)[0] == pytest.approx(0, abs=1e-6)


def test_the_report_holds_every_metric_with_its_interval() -> None:
    targets, outputs = drawn(300, 2)
    report = judge(BY_TASK["regression"], targets, outputs, Evaluate(), 7)
    assert report.keys() == METRICS.keys()
    for name, entry in report.items():
        assert entry["low"] < entry["value"] < entry["high"]
        assert entry["value"] == pytest.approx(
            KNOWN[name](targets.astype(float), outputs.astype(float)), rel=1e-6
        )


def test_the_interval_of_the_error_covers_the_truth_about_as_often_as_it_says() -> None:
    """300 test sets of one model; 300 trials of 0.95 have a deviation of 0.013."""
    draw, covered = np.random.default_rng(4), 0
    for _ in range(300):
        targets, errors = draw.normal(size=(2, 200, 1))
        entry = judge(BY_TASK["regression"], targets, targets + errors, Evaluate(resamples=200), 1)["mse"]
        covered += entry["low"] <= 1 <= entry["high"]
    assert 0.89 < covered / 300 < 0.99


# Promotion


@pytest.mark.parametrize("metric", METRICS)
def test_better_is_positive_in_every_metric(metric: str) -> None:
    targets, good = drawn(400, 0, noise=0.3)
    bad = drawn(400, 0, noise=0.6)[1]
    weights = resamples(500, 400, 0)
    found = difference(BY_TASK["regression"], metric, [weights], targets, good, bad, 0.95)
    assert 0 < found.low < found.value < found.high
    assert decide(found, 0.0, "the other", metric)[0] == "promoted"
    other = difference(BY_TASK["regression"], metric, [weights], targets, bad, good, 0.95)
    assert (other.value, other.low, other.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert decide(other, 0.005, "the other", metric)[0] == "rejected"


@pytest.fixture
def tested(project: Path) -> np.ndarray:
    """What `promote` reads of a regression's test: targets; gives good outputs."""
    targets, outputs = drawn(200, 5, noise=0.2)
    write(project / "data/prepare/test", table_spec((), ("price", "size")), table_rows(200, 0), targets)
    for name in ("evaluate", "train"):
        (project / "data" / name).mkdir()
    write_json(project / "data/train/transform.json", Transform())
    np.save(project / "data/evaluate/outputs.npy", outputs)
    return outputs


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2", "mse"])
def test_the_first_model_must_beat_the_mean(metric: Metric, project: Path, tested: np.ndarray) -> None:
    settings = Promote(metric=metric)
    verdict, reason, compared = promote.judge(None, "abc", settings, 7)
    assert verdict == "promoted"
    assert f"{metric} +" in reason
    assert "the trivial baseline" in reason
    assert compared["over_trivial_baseline"]["low"] > 0
    np.save(project / "data/evaluate/outputs.npy", np.random.default_rng(0).permutation(tested))
    assert promote.judge(None, "abc", settings, 7)[0] == "rejected"


@pytest.mark.usefixtures("tested")
def test_a_metric_of_another_task_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError) as told:
        promote.judge(None, "abc", Promote(metric="accuracy"), 7)
    assert str(told.value) == (
        "promote.metric: 'accuracy' is no metric of regression; expected auto, rmse, mae, r2, mse"
    )


def test_what_is_pictured_is_spread_over_all_rows(tmp_path: Path) -> None:
    true = np.arange(12_000, dtype=np.float32)[:, None]
    column = Column(name="row", role="input", dtype="<f4", shape=(1,))
    spec = DataSpec(modality="table", task="regression", source="t", columns=(column,), targets=("a",))
    regression.draw(spec, true, true, tmp_path)
    lines = (tmp_path / "residuals.csv").read_text().splitlines()
    assert len(lines) == 1 + regression.SHOWN
    assert (lines[1].split(",")[1], lines[-1].split(",")[1]) == ("0.0", "11999.0")
