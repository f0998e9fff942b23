"""Mixup, cutmix and the mean of the weights: what they do, that a kill changes nothing, and that they help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import Callback

from models.mixing import build, cutmix, edges, mixup, rows
from models.optimiser import Optimiser
from models.tasks import Supervised
from pipeline.fitting.fit import assemble, fit
from serving.inputs.spec import DataSpec
from tests.conftest import spec_of
from tests.small import blobs, table_job, table_spec
from tests.test_doctor import picture_job
from tests.test_series_augmentation import SERIES, TEXT

IMAGES = spec_of((1, 8, 8), ("a", "b", "c"))


def mixed(
    spec: DataSpec, inputs: torch.Tensor, targets: torch.Tensor, seed: int = 0, **settings: float
) -> tuple[torch.Tensor, torch.Tensor]:
    mixer = build(Optimiser.model_validate(settings), spec)
    assert mixer is not None
    torch.manual_seed(seed)
    return mixer(inputs, targets)


def test_nothing_asked_mixes_nothing() -> None:
    assert build(Optimiser(), IMAGES) is None


def test_texts_cannot_be_blended() -> None:
    with pytest.raises(ValueError, match=r"train\.mixup cannot blend the tokens of texts"):
        build(Optimiser(mixup=0.2), TEXT)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_targets_are_shared_as_the_pixels_are(name: str) -> None:
    """Every image is of one grey of its own class, so its mean tells how much of each class is in it."""
    targets = torch.arange(3).repeat(10)
    images = (100 * targets).to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    blends = 0
    for seed in range(20):
        found, shares = mixed(IMAGES, images, targets, seed, **{name: 1.0})
        assert found.shape == images.shape
        torch.testing.assert_close(shares.sum(1), torch.ones(30))
        greys = found.float().mean((1, 2, 3))
        torch.testing.assert_close(greys, shares @ torch.tensor([0.0, 100, 200]), rtol=1e-4, atol=1e-3)
        blends += int(((shares > 0.05) & (shares < 0.95)).any())
    assert blends > 10
    again, _ = mixed(IMAGES, images, targets, 19, **{name: 1.0})
    assert torch.equal(found, again), "the seed decides"
    assert images.max() == 200, "the input is left alone"


def test_alpha_says_how_evenly_pairs_are_mixed() -> None:
    targets = torch.arange(3).repeat(10)
    images = torch.zeros(30, 1, 8, 8)

    def evenness(alpha: float) -> float:
        shares = [mixed(IMAGES, images, targets, seed, mixup=alpha)[1] for seed in range(40)]
        return float(torch.stack(shares).amax(2).mean())

    assert evenness(0.1) > evenness(1.0) + 0.05 > evenness(10.0) + 0.1


def test_a_blend_of_series_is_as_long_as_the_longer_and_fills_gaps() -> None:
    nan = float("nan")
    long = torch.tensor([[[1.0], [2.0], [nan], [4.0]]])
    short = torch.tensor([[[3.0], [nan], [nan], [nan]]])
    found, share = mixup(long, short, 0.75)
    assert share == 0.75
    assert found.flatten().tolist() == pytest.approx([1.5, 2.0, nan, 4.0], nan_ok=True)
    swapped, _ = mixup(short, long, 0.25)
    torch.testing.assert_close(swapped, found, equal_nan=True)
    batch, targets = long.repeat(4, 1, 1).repeat(1, 1, 2), torch.tensor([0, 1, 0, 1])
    assert mixed(SERIES, batch, targets, mixup=1.0)[0].shape == batch.shape


def test_rows_keep_categories_whole_and_gaps_possible() -> None:
    first = torch.tensor([[10.0, float("nan"), 1.0]]).repeat(1000, 1)
    second = torch.tensor([[20.0, 5.0, 3.0]]).repeat(1000, 1)
    torch.manual_seed(0)
    found, _ = rows(first, second, 0.7, 2)
    assert found[:, 0].unique().tolist() == [13.0]
    assert set(found[:, 2].tolist()) == {1.0, 3.0}
    assert float((found[:, 2] == 1).float().mean()) == pytest.approx(0.7, abs=0.05)
    assert float(found[:, 1].isnan().float().mean()) == pytest.approx(0.7, abs=0.05)
    assert found[:, 1].nan_to_num(5).unique().tolist() == [5.0]


def test_targets_of_a_regression_are_averaged() -> None:
    spec = table_spec(["number"], targets=1)
    values = torch.linspace(0, 1, 50)[:, None]
    inputs, targets = mixed(spec, values, values, mixup=1.0)
    torch.testing.assert_close(inputs, targets)
    assert not torch.equal(inputs, values)


def test_cutmix_pastes_a_rectangle_of_its_share() -> None:
    torch.manual_seed(0)
    areas = []
    for _ in range(200):
        found, share = cutmix(torch.zeros(2, 1, 20, 30), torch.ones(2, 1, 20, 30), 0.75)
        assert float(found.mean()) == pytest.approx(1 - share)
        down, across = (found[0, 0].amax(dim).sum() for dim in (1, 0))
        assert float(found[0].sum()) == down * across, "one rectangle"
        areas.append(1 - share)
    assert max(areas) == pytest.approx(0.25)
    assert min(areas) < 0.2, "it may reach over the border"
    assert edges(0.5, 0.5, 20) == (5, 15)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_training_mixes_and_validation_does_not(name: str, tmp_path: Path) -> None:
    task, train, val = assemble(picture_job(tmp_path, augmentation={"strength": 0}, **{name: 1.0}))
    seen: list[torch.Tensor] = []

    def watch(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        seen.append(given[0])

    task.served.net.register_forward_pre_hook(watch)
    batch = next(iter(train))
    plain = task.served.front(batch[0])
    torch.manual_seed(0)
    assert task.training_step(batch, 0).isfinite()
    assert not torch.equal(seen[-1], plain)
    batch = next(iter(val))
    task.validation_step(batch, 0)
    assert torch.equal(seen[-1], task.served.front(batch[0]))


def test_mixup_keeps_a_small_training_set_from_being_learnt_by_heart(tmp_path: Path) -> None:
    losses = []
    for at, alpha in enumerate((0.0, 1.0)):
        found: list[dict[str, float]] = []
        settings = {"mixup": alpha, "max_epochs": 60, "lr": 0.01, "batch_size": 10}
        data = blobs(20, 0, distance=1.5, size=20), blobs(400, 1, distance=1.5, size=20)
        job = table_job(tmp_path / str(at), *data, settings, {"width": 128})
        fit(job, [lambda _, metrics, found=found: found.append(metrics)])  # type: ignore[misc]
        losses.append(found[-1]["val_loss"])
    assert losses[1] < 0.8 * losses[0], losses


# --- the mean of the weights


def test_the_mean_is_that_of_its_definition(tmp_path: Path) -> None:
    """With a decay that grows as (1 + n) / (10 + n), the first step's weights being where it begins."""
    job = table_job(tmp_path, blobs(128, 0), blobs(50, 1), {"ema": 0.5, "max_epochs": 3})
    states: list[dict[str, torch.Tensor]] = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Any, task: Any, *given: Any) -> None:
            states.append({name: value.clone() for name, value in task.served.state_dict().items()})

    served = fit(job, [], callbacks=[Keep()])
    assert len(states) == 12
    for name, found in served.state_dict().items():
        mean = states[0][name].double()
        for count, state in enumerate(states[1:], 1):
            decay = min(0.5, (1 + count) / (10 + count))
            mean = decay * mean + (1 - decay) * state[name]
        if found.is_floating_point():
            torch.testing.assert_close(found.double(), mean, rtol=1e-4, atol=1e-5)


def test_what_is_judged_is_the_mean(tmp_path: Path) -> None:
    """The validation loss that is logged is that of the weights that are returned."""
    job = table_job(tmp_path, blobs(200, 0), blobs(100, 1), {"ema": 0.9})
    for checkpoints in (None, tmp_path / "state"):
        told: list[float] = []
        served = fit(job, [lambda _, metrics: told.append(metrics["val_loss"])], checkpoints)  # noqa: B023
        task, _, val = assemble(job)
        with torch.inference_mode():
            inputs, targets = next(iter(val))
            loss = float(task.loss.plain(served.raw(inputs), targets))
        assert loss == pytest.approx(told[-1] if checkpoints is None else min(told), abs=1e-6)
    plain = fit(job.__class__(**{**job.__dict__, "train": job.train.model_copy(update={"ema": 0.0})}), [])
    assert not torch.equal(plain.net[-1].weight, served.net[-1].weight)  # type: ignore[index]


@pytest.mark.parametrize(
    "settings", [{"ema": 0.95}, {"mixup": 0.4, "sampling": "over"}, {"ema": 0.9, "mixup": 0.4}], ids=str
)
def test_a_killed_training_ends_with_the_weights_of_the_undisturbed_one(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(epoch: int, _: dict[str, float]) -> None:
        if epoch == 2:
            raise Killed

    job = table_job(tmp_path, blobs(200, 0, 0.3), blobs(100, 1), settings, {"dropout": 0.3})
    whole = fit(job, [], tmp_path / "whole").state_dict()
    with pytest.raises(Killed):
        fit(job, [kill], tmp_path / "killed")
    resumed = fit(job, [], tmp_path / "killed").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    other = fit(job, [], tmp_path / "killed" / "anew").state_dict()
    assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_the_mean_is_steadier_than_the_weights(tmp_path: Path) -> None:
    """With a rate so high that the last weights jump about, their mean answers better."""
    losses = []
    for at, decay in enumerate((0.0, 0.98)):
        told: list[float] = []
        settings = {"ema": decay, "lr": 0.3, "warmup": 0.9, "max_epochs": 10, "batch_size": 16}
        job = table_job(tmp_path / str(at), blobs(300, 0), blobs(400, 1), settings)
        fit(job, [lambda _, metrics, told=told: told.append(metrics["val_loss"])])  # type: ignore[misc]
        losses.append(float(np.mean(told[-5:])))
    assert losses[1] < losses[0], losses


def test_the_task_takes_neither_by_default(tmp_path: Path) -> None:
    task, *_ = assemble(table_job(tmp_path, blobs(50, 0), blobs(50, 1), {}))
    assert isinstance(task, Supervised)
    assert task.mix is None
    assert task.optimiser.ema == 0
