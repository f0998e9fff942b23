"""`train.accumulate`: two batches of 32 whose gradients are added up train as one batch of 64 does."""

from __future__ import annotations

import dataclasses
import doctest
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from models.params import Model
from pipeline.core.params import UserError
from pipeline.fitting import accumulating
from pipeline.fitting.batches import Batches
from pipeline.fitting.doctor import Doctor
from pipeline.fitting.fit import assemble, fit
from pipeline.fitting.ratefinder import range_test
from tests.small import CPU, blobs, table_job

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = {"normalisation": "layer", "activation": "tanh"}


class Steps(Callback):
    """Counts the steps of the optimiser and keeps the learning rate of each."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.rates.append(float(optimizer.param_groups[0]["lr"]))


def trained(folder: Path, rows: int, **settings: Any) -> tuple[torch.Tensor, Steps, list[dict[str, float]]]:
    """The weights, the steps, and the epochs' metrics of a short training."""
    job = table_job(folder, blobs(rows, 0), blobs(40, 1), {"max_epochs": 4, "warmup": 0.3, **settings}, MODEL)
    steps, curve = Steps(), []
    served = fit(job, [lambda _, metrics: curve.append(metrics)], callbacks=[steps])
    return torch.cat([weight.detach().flatten() for weight in served.parameters()]), steps, curve


@pytest.mark.parametrize("rows", [192, 232, 212], ids=["whole", "last group of 32 + 8", "last group of 20"])
def test_two_batches_of_32_give_the_weights_of_one_of_64(rows: int, tmp_path: Path) -> None:
    """With clipping that bites, a running mean of the weights, and the penalty on weights, which counts once a step."""
    given = {"gradient_clip": 0.05, "ema": 0.8, "l1": 0.01}
    whole, one, curve = trained(tmp_path, rows, batch_size=64, **given)
    added, two, other = trained(tmp_path, rows, batch_size=32, accumulate=2, **given)
    assert two.rates == one.rates, "as many steps, at the same rates"
    assert len(one.rates) == 4 * -(-rows // 64)
    torch.testing.assert_close(added, whole, rtol=1e-4, atol=1e-5)
    for metric in ("train_loss", "val_loss", "val_score"):
        assert [epoch[metric] for epoch in other] == pytest.approx(
            [epoch[metric] for epoch in curve], abs=1e-5
        )
    alone, _, _ = trained(tmp_path, rows, batch_size=32, **given)
    assert (alone - whole).abs().max() > 0.01, "the comparison can tell"


def test_more_batches_to_add_than_there_are_is_one_step_an_epoch(tmp_path: Path) -> None:
    whole, one, _ = trained(tmp_path, 100, batch_size=256)
    added, two, _ = trained(tmp_path, 100, batch_size=32, accumulate=4096)
    assert len(one.rates) == len(two.rates) == 4
    torch.testing.assert_close(added, whole, rtol=1e-4, atol=1e-5)


def test_the_doctor_looks_at_steps_and_leaves_no_hook(tmp_path: Path) -> None:
    job = table_job(tmp_path, blobs(230, 0), blobs(40, 1), {"accumulate": 3, "batch_size": 16})
    doctor = Doctor()
    served = fit(job, [], callbacks=[doctor])
    assert len(doctor.looks) == 6
    assert all(look["norm"] > 0 and look["changes"] and look["means"] for look in doctor.looks)
    assert not any(module._forward_hooks for module in served.modules())


def test_the_range_test_tries_rates_with_the_gradients_that_training_has(tmp_path: Path) -> None:
    """Of the whole data in either case, so the losses are those of one large batch."""
    losses = []
    for given in ({"batch_size": 256}, {"batch_size": 32, "accumulate": 4}):
        job = table_job(tmp_path, blobs(128, 0), blobs(40, 1), {"lr": 0, **given}, MODEL)
        losses.append(range_test(job)[1])
    assert losses[1][:40] == pytest.approx(losses[0][:40], rel=1e-3)


def test_the_sizes_are_those_of_the_batches(tmp_path: Path) -> None:
    table_job(tmp_path, blobs(75, 0, share=0.2), blobs(49, 1), {})
    for size in (8, 37, 74, 75, 400):
        for sampling in ("none", "over", "under"):
            batches = Batches(tmp_path / "train", size, torch.device("cpu"), 5, sampling)  # type: ignore[arg-type]
            assert batches.sizes() == [len(targets) for _, targets in batches]
    assert doctest.testmod(accumulating) == (0, 1)


def test_two_players_do_not_add_up(tmp_path: Path) -> None:
    job = table_job(tmp_path, blobs(75, 0), blobs(49, 1), {"accumulate": 2})
    with pytest.raises(UserError, match=r"train\.accumulate adds up gradients of one network.*set it to 1"):
        assemble(dataclasses.replace(job, model=Model(family="gan"), compute=CPU))
