"""Series scaled each by itself, and what is told of their gaps: the front is NumPy's arithmetic, whatever is padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.fronts import SeriesFront, series_features
from models.served import Served, load, save
from pipeline.core.params import UserError
from pipeline.export import export_graphs
from pipeline.fitting.rows import OnSeries
from pipeline.prepare import write_splits
from pipeline.transforms import Scaling, check, fit
from pipeline.transforms.series import levels
from serving.inputs.ragged import Ragged
from serving.inputs.spec import DataSpec, Transform
from serving.predictor import BACKENDS, Predictor
from tests.modalities import series_rows, series_spec, table_spec, write
from tests.samples import padded, params_of

pytestmark = pytest.mark.usefixtures("one_thread")
SPEC = series_spec("abc")
FAMILIES = ("cnn", "gru", "transformer")


def rows_of(count: int = 60) -> Ragged:
    """Series (T, 2) whose amplitudes span eight orders of magnitude; gaps in the second channel alone."""
    rows = series_rows(count, 3)
    values = (
        rows.values * np.repeat(10.0 ** np.random.default_rng(0).uniform(-4, 4, count), rows.lengths)[:, None]
    )
    values[:, 0] = np.nan_to_num(values[:, 0])
    return Ragged(values.astype(np.float32), rows.offsets)


def fitted(rows: Ragged, folder: Path, scaling: Scaling = "sample") -> Transform:
    dataset = write(folder, SPEC, rows, np.arange(len(rows)) % 3)
    return fit(dataset, np.ones(len(rows), bool), folder, scaling=scaling).transform


def front(rows: Ragged, transform: Transform) -> np.ndarray:
    """What the front gives padded rows."""
    found: torch.Tensor = SeriesFront(SPEC, transform)(torch.from_numpy(rows.padded(np.nan)))
    assert found.shape[2] == series_features(SPEC, transform) + 1
    return found.numpy()


def test_each_series_has_mean_0_and_deviation_1_and_its_level_beside_it(tmp_path: Path) -> None:
    rows = rows_of()
    transform = fitted(rows, tmp_path)
    found = front(rows, transform)
    level = []
    for at, given in enumerate(found):
        steps = rows[at].astype(np.float64)
        mean, std = np.nanmean(steps, axis=0), np.nanstd(steps, axis=0)
        steady = np.where(std > 1e-6 * np.nanmax(np.abs(steps), axis=0), std, 1)
        expected = np.nan_to_num((steps - mean) / steady)
        np.testing.assert_allclose(given[: len(steps), :2], expected, atol=1e-4)
        floor = np.maximum(std, 1e-6 * np.nanmax(np.abs(steps), axis=0))
        level.append([*np.log(floor), *np.arcsinh(mean / floor)])
        np.testing.assert_array_equal(given[: len(steps), 6], np.isnan(steps[:, 1]))
        assert (given[: len(steps), 7] == 1).all()
        assert not given[len(steps) :].any(), "nothing follows the last step"
    np.testing.assert_allclose(transform.level_mean, np.mean(level, axis=0), rtol=1e-6)
    np.testing.assert_allclose(transform.level_std, np.std(level, axis=0), rtol=1e-6)
    scaled = ((np.array(level) - transform.level_mean) / transform.level_std).clip(-5, 5)
    np.testing.assert_allclose(found[:, 0, 2:6], scaled, atol=1e-4)
    assert (found[:, :1, 2:6] == np.where(found[..., 7:] > 0, found[:, :, 2:6], found[:, :1, 2:6])).all()


def test_amplitude_moves_the_level_and_not_the_course(tmp_path: Path) -> None:
    rows = rows_of()
    transform = fitted(rows, tmp_path)
    here, there = front(rows, transform), front(Ragged(rows.values * 16, rows.offsets), transform)
    np.testing.assert_allclose(here[..., :2], there[..., :2], atol=1e-5)
    assert (there[:, 0, 2:4] > here[:, 0, 2:4] + 0.1).all()
    np.testing.assert_allclose(here[:, 0, 4:6], there[:, 0, 4:6], atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30, -3e38, 240.1])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_constant_series_and_a_lone_step_are_finite(tmp_path: Path, value: float, steps: int) -> None:
    transform = fitted(rows_of(), tmp_path)
    rows = Ragged(np.full((steps, 2), value, np.float32), np.array([0, steps]))
    found = front(rows, transform)
    assert np.isfinite(found).all()
    assert not found[..., :2].any()
    assert np.abs(found[..., 2:6]).max() <= 5
    assert np.isfinite(levels(rows)).all()


def test_a_channel_that_holds_nothing_is_of_average_level(tmp_path: Path) -> None:
    transform = fitted(rows_of(), tmp_path)
    rows = Ragged(np.array([[1, np.nan], [2, np.nan], [4, np.nan]], np.float32), np.array([0, 3]))
    found = front(rows, transform)
    assert np.isfinite(found).all()
    assert not found[0, :, [3, 5]].any()
    assert found[0, :, 6].all()
    assert np.isnan(levels(rows)).tolist() == [[False, True, False, True]]


def test_gaps_are_told_where_training_has_them_alone(tmp_path: Path) -> None:
    rows = rows_of()
    assert fitted(rows, tmp_path / "gaps", "split").gaps == (1,)
    whole = Ragged(np.nan_to_num(rows.values), rows.offsets)
    transform = fitted(whole, tmp_path / "whole", "split")
    assert (transform.gaps, transform.level_mean) == ((), ())
    assert front(rows, transform).shape[2] == 3, "as before there were indicators"


def test_what_is_fitted_sees_training_alone(tmp_path: Path) -> None:
    rows = rows_of()
    values = np.concatenate([rows.values, 1e9 * rows.values])
    other = Ragged(values, np.concatenate([rows.offsets, rows.offsets[1:] + rows.offsets[-1]]))
    dataset = write(tmp_path / "both", SPEC, other, np.arange(len(other)) % 3)
    train = np.arange(len(other)) < len(rows)
    found = fit(dataset, train, tmp_path, scaling="sample").transform
    assert found == fitted(rows, tmp_path / "one")


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_answer_and_level_and_gaps_have_a_part_in_it(family: str, tmp_path: Path) -> None:
    rows = rows_of()
    transform = fitted(rows, tmp_path)
    torch.manual_seed(0)
    served = Served(params_of(family, stride=3), SPEC, transform).eval()  # of a cnn
    inputs = torch.from_numpy(rows[np.arange(9)].padded(np.nan))
    expected = served(inputs)
    torch.testing.assert_close(served(padded(inputs, 13)), expected, atol=2e-6, rtol=1e-5)
    assert (served(inputs * 16) - expected).abs().amax(1).min() > 1e-5
    lone = inputs.isnan() & (inputs.isnan().sum(2, keepdim=True) == 1)
    filled = torch.where(lone, inputs.nanmean(1, keepdim=True), inputs)
    gaps = (filled.isnan() != inputs.isnan()).any(2).any(1)
    assert gaps.any()
    assert (served(filled) - expected)[gaps].abs().amax(1).min() > 1e-5


@pytest.mark.slow
def test_exported_it_takes_raw_series_of_any_length(tmp_path: Path) -> None:
    rows = rows_of()
    transform = fitted(rows, tmp_path / "set")
    params = params_of("cnn", stride=3, normalisation="layer")
    torch.manual_seed(0)
    (folder := tmp_path / "bundle").mkdir()
    save(Served(params, SPEC, transform), params, SPEC, transform, folder)
    served = load(folder)
    export_graphs(served, SPEC.input, folder)
    for backend in BACKENDS:
        predictor = Predictor(folder, backend)
        for some in (rows[:1], rows[:17], *(np.ones((1, steps, 2), np.float32) for steps in (40, 1))):
            inputs = some.padded(np.nan) if isinstance(some, Ragged) else some
            expected = served(torch.from_numpy(inputs)).detach().numpy()
            np.testing.assert_allclose(predictor.outputs(inputs), expected, atol=5e-6, err_msg=backend)


def test_noise_is_in_deviations_of_each_series(tmp_path: Path) -> None:
    transform = fitted(rows_of(), tmp_path)
    draw = torch.Generator().manual_seed(0)
    amplitude = torch.tensor([1e-3, 1.0, 1e4]).view(3, 1, 1)
    series = amplitude * (5 + torch.randn(3, 4000, 2, generator=draw))
    torch.manual_seed(0)
    change = OnSeries(0.3, 0.0, 0.0, 0.0, SPEC, transform)(series) - series
    torch.testing.assert_close(change.std(1), 0.3 * amplitude[:, 0].expand(3, 2), rtol=0.06, atol=0)
    scaled = OnSeries(0.0, 0.5, 0.0, 0.0, SPEC, transform)(series)
    torch.testing.assert_close(scaled.mean(1), series.mean(1), rtol=1e-4, atol=0)


def test_what_has_no_meaning_is_refused(tmp_path: Path) -> None:
    forecast = SPEC.model_copy(update={"series": SPEC.series.model_copy(update={"horizon": 3})})  # type: ignore[union-attr]
    cases: dict[str, DataSpec] = {
        "what is forecast keeps its own scale": forecast,
        "this is table data": table_spec("ab"),
    }
    for said, spec in cases.items():
        with pytest.raises(UserError, match=f"prepare.scaling: .*{said}"):
            check(spec, "trained", "sample")
        check(spec, "trained", "split")
    dataset = write(tmp_path / "set", SPEC, rows_of(), np.arange(60) % 3)
    write_splits(dataset, np.arange(60) % 3, tmp_path / "splits", scaling="sample")
    made = Transform.model_validate_json((tmp_path / "splits/transform/transform.json").read_text())
    assert len(made.level_mean) == 4
