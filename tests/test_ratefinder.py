"""The learning-rate range test: within bounds, the same for a seed, and a rate that trains well."""

from __future__ import annotations

import doctest
import math
from pathlib import Path

import pytest

from pipeline import tune
from pipeline.fitting import ratefinder
from pipeline.fitting.fit import fit
from pipeline.fitting.ratefinder import BOUNDS, range_test, suggested, with_rate
from pipeline.fitting.space import Domain
from tests.small import blobs, table_job
from tests.test_doctor import picture_job


def loss_with(folder: Path, rate: float) -> float:
    """The last training loss of some pictures, fitted with a rate."""
    found: list[float] = []
    job = with_rate(picture_job(folder, lr=rate, max_epochs=4, augmentation={"strength": 0}))
    assert job.train.lr == rate or (rate == 0 and BOUNDS[0] <= job.train.lr <= BOUNDS[1])
    fit(job, [lambda _, metrics: found.append(metrics["train_loss"])])
    return found[-1]


def test_the_rate_that_is_found_trains_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """About as well as the best of a grid, and far better than rates that are off."""
    grid = {rate: loss_with(tmp_path, rate) for rate in (1e-4, 1e-3, 1e-2, 1e-1)}
    found = loss_with(tmp_path, 0)
    assert "train.lr is 0: a range test takes 0.0" in capsys.readouterr().out
    assert found < sorted(grid.values())[1] + 0.1, (found, grid)
    assert found < 0.5 * grid[1e-4], (found, grid)


def test_the_seed_decides(tmp_path: Path) -> None:
    jobs = [
        table_job(tmp_path, blobs(200, 0), blobs(50, 1), {"lr": 0, "mixup": 0.2}, seed=s) for s in (1, 1, 2)
    ]
    first, same, other = (range_test(job) for job in jobs)
    assert first == same
    assert first[1] != other[1]


def test_a_rate_that_is_given_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = table_job(tmp_path, blobs(50, 0), blobs(50, 1), {"lr": 0.02})
    assert with_rate(job) is job
    assert capsys.readouterr().out == ""


def test_the_suggestion_lies_below_the_rate_at_which_the_loss_breaks_out() -> None:
    rates = [10 ** (-5 + 5 * at / 99) for at in range(100)]
    valley = [1 - 0.8 / (1 + (0.01 / rate) ** 2) + (max(0, rate - 0.1) * 50) for rate in rates]
    assert 0.003 < suggested(rates, valley) < 0.03
    assert suggested(rates, [2.0] * 50 + [math.nan] * 50) >= BOUNDS[0]
    assert suggested(rates, [1 - rate / 2 for rate in rates]) == BOUNDS[1], "no rate was too high"
    assert suggested(rates, [1 + at for at in range(100)]) == BOUNDS[0], "every rate was"
    assert doctest.testmod(ratefinder) == (0, 1)


def test_a_study_of_the_rate_does_not_begin_with_zero(tmp_path: Path) -> None:
    job = table_job(tmp_path, blobs(50, 0), blobs(50, 1), {"lr": 0})
    space = {"train.lr": Domain(low=0.001, high=0.1, log=True), "model.width": Domain(low=4, high=8)}
    assert tune.given(space, job) == {"model.width": 16}
