"""Private training: single samples are clipped, the noise is there, the budget is what it is said to be."""

from __future__ import annotations

import math
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from models.optimiser import Optimiser
from models.private import Noised, Private, PrivateReconstruction
from models.served import Served
from pipeline.card import training_of
from pipeline.core.ranking import roc_auc_of
from pipeline.fitting.batches import Batches
from pipeline.fitting.fit import Job, fit
from pipeline.fitting.privacy import epsilon_spent, noise_multiplier, promised
from pipeline.fitting.secret import Secret
from pipeline.fitting.settings import Privacy
from tests.samples import PAIRS, params_of, rows_of, served_of, small_text_trunk, spec_of
from tests.small import blobs, table_job

CPU = torch.device("cpu")
LAYER = {"normalisation": "layer"}
CLIP = 0.7
pytestmark = pytest.mark.usefixtures("one_thread")


def private(served: Served, kind: type[Private] = Private, noise: float = 0.0, batch: float = 1.0) -> Private:
    """A private task, whose noise follows from a seed."""
    task = kind(served, Optimiser(label_smoothing=0.0), torch.nn.Identity(), 10)
    draw = torch.Generator().manual_seed(3)
    optimiser = torch.optim.SGD(task.parameters(), 0.1)
    task.noised = Noised(optimiser, noise, CLIP, batch, lambda shape: torch.randn(shape, generator=draw))
    return task.train()


def released(task: Private, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What one step may see of a batch, as one vector."""
    task.backward(task.training_step((inputs, targets), 0))
    assert all(each.grad_sample is None for each in task.parameters() if each.requires_grad)  # type: ignore[attr-defined]
    return torch.cat([each.grad.flatten() for each in task.parameters() if each.grad is not None])


def by_hand(task: Private, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum of the clipped gradients, each from a backward pass of its own."""
    total: Any = 0
    for one, target in zip(inputs.split(1), targets.split(1), strict=True):
        task.zero_grad()
        torch.nn.Module.zero_grad(task)
        task.objective(one, target).backward()
        found = [each.grad if each.grad is not None else torch.zeros_like(each)
                 for each in task.parameters() if each.requires_grad]  # fmt: skip
        flat = torch.cat([each.flatten() for each in found])
        total = total + flat * min(1.0, CLIP / float(flat.norm()))
    torch.nn.Module.zero_grad(task)
    return total


@pytest.mark.parametrize(("family", "modality"), PAIRS)
def test_every_family_gives_the_clipped_gradients_of_its_samples(
    family: str, modality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.transfer import TRUNKS

    monkeypatch.setitem(TRUNKS, "text", small_text_trunk())
    spec = spec_of(modality)
    served = served_of(params_of(family, **LAYER), spec)
    if family == "transfer":
        served.net.open(0)  # type: ignore[union-attr, operator]
    task = private(served)
    inputs, targets = rows_of(spec, 5), torch.arange(5) % 5
    torch.testing.assert_close(
        released(task, inputs, targets), by_hand(task, inputs, targets), atol=2e-5, rtol=1e-3
    )


@pytest.mark.parametrize("modality", ["image", "table"])
def test_an_autoencoder_does_too(modality: str) -> None:
    spec = spec_of(modality).model_copy(update={"task": "anomaly"})
    served = served_of(params_of("autoencoder", latent=2), spec)
    task = private(served, PrivateReconstruction)
    inputs, targets = rows_of(spec, 4), torch.zeros(4, dtype=torch.int64)
    torch.testing.assert_close(
        released(task, inputs, targets), by_hand(task, inputs, targets), atol=2e-5, rtol=1e-3
    )


def small_task(noise: float = 0.0, batch: float = 1.0) -> tuple[Private, torch.Tensor, torch.Tensor]:
    spec = spec_of("table")
    task = private(served_of(params_of("fnn", **LAYER, width=32), spec), noise=noise, batch=batch)
    return task, rows_of(spec, 8), torch.arange(8) % 5


def test_one_sample_moves_the_sum_by_no_more_than_the_clip_whatever_it_holds() -> None:
    task, inputs, targets = small_task()
    rest = released(task, inputs[1:], targets[1:])
    for value in (1e12, -1e30, float("inf")):
        inputs[0, :3] = value
        moved = float((released(task, inputs, targets) - rest).norm())
        assert math.isfinite(moved)
        assert moved <= CLIP * 1.0001
        if value == 1e12:
            assert moved > 0.99 * CLIP  # it does move it


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task, inputs, targets = small_task()
    whole = released(task, inputs, targets)
    monkeypatch.setattr("models.private.MEMORY", 1)
    torch.testing.assert_close(released(task, inputs, targets), whole)


def test_the_noise_has_the_deviation_that_was_asked_for() -> None:
    """Of empty batches nothing but noise is left; with samples it is added to their sum."""
    task, inputs, targets = small_task(noise=2.0, batch=4.0)
    alone = torch.stack([released(task, inputs[:0], targets[:0]) for _ in range(60)])
    expected = 2.0 * CLIP / 4.0
    assert float(alone.std()) == pytest.approx(expected, rel=0.02)
    assert abs(float(alone.mean())) < 4 * expected / alone.numel() ** 0.5
    assert abs(float(torch.corrcoef(alone[:2])[0, 1])) < 0.2
    exact = by_hand(task, inputs, targets) / 4.0
    noised = torch.stack([released(task, inputs, targets) for _ in range(60)])
    assert float((noised - exact).std()) == pytest.approx(expected, rel=0.02)


def test_a_secret_draws_alike_for_alike_purposes_and_is_destroyed(tmp_path: Path) -> None:
    one = Secret(tmp_path)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    again, other = Secret(tmp_path), Secret(None)
    shape = (200, 50)
    noise = one.noise(3)(shape)
    assert torch.equal(noise, again.noise(3)(shape))
    for drawn in (one.noise(4)(shape), other.noise(3)(shape)):
        assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), drawn.flatten()]))[0, 1])) < 0.05
    assert float(noise.std()) == pytest.approx(1.0, rel=0.03)
    assert noise.dtype == torch.float32
    one.forget()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "secret").write_bytes(b"cut")
    assert not torch.equal(Secret(tmp_path).noise(3)(shape), noise)


def test_batches_are_drawn_row_by_row(tmp_path: Path) -> None:
    job = private_job(tmp_path, 400, batch_size=20)
    secret = Secret(None)
    batches = Batches(job.train_folder, 20, CPU, shuffle_seed=1, secret=secret)
    assert batches.rate == 0.05
    assert len(batches) == 20
    seen = []
    for epoch in range(10):
        batches.set_epoch(epoch)
        seen.append([inputs[:, 1].tolist() for inputs, _ in batches])
    sizes = np.array([len(rows) for epoch in seen for rows in epoch])
    assert sizes.mean() == pytest.approx(20, abs=5 * (20 / len(sizes)) ** 0.5)
    assert sizes.var() == pytest.approx(400 * 0.05 * 0.95, rel=0.5)  # a shuffle would have none
    batches.set_epoch(3)
    assert [inputs[:, 1].tolist() for inputs, _ in batches] == seen[3]
    counts = np.bincount(
        np.unique([row for epoch in seen for rows in epoch for row in rows], return_inverse=True)[1]
    )
    assert counts.mean() == pytest.approx(10, rel=0.1)
    assert counts.var() == pytest.approx(200 * 0.05 * 0.95, rel=0.5)


def private_job(
    folder: Path, count: int = 200, model: dict[str, Any] | None = None, epsilon: float = 3.0, **settings: Any
) -> Job:
    given = {"max_epochs": 3, "privacy": {"epsilon": epsilon, "delta": 1e-4}, **settings}
    return table_job(folder, blobs(count, 1), blobs(60, 2), given, {**LAYER, "dropout": 0.2, **(model or {})})


def logged(
    job: Job, checkpoints: Path | None = None
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    rows: list[dict[str, float]] = []
    served = fit(job, [lambda epoch, metrics: rows.append(metrics)], checkpoints)
    return served.state_dict(), rows


def test_a_whole_training_spends_its_budget_and_says_so(tmp_path: Path) -> None:
    job = private_job(tmp_path, ema=0.9)
    first, rows = logged(job, tmp_path / "first")
    spent = [row["epsilon"] for row in rows]
    assert spent == sorted(spent)
    assert 2.97 < spent[-1] <= 3.0
    assert not (tmp_path / "first" / "secret").exists()
    second, _ = logged(job)
    assert any(not torch.equal(first[name], second[name]) for name in first), "the project's seed decided"
    told = promised(job.train.privacy, rows)
    assert told["epsilon"] == spent[-1]
    assert training_of({"privacy": told})["Privacy of the training samples"].startswith(
        f"epsilon {spent[-1]:.3f} at delta 0.0001 for each sample"
    )
    assert promised(Privacy(), rows) == {}


def test_early_stopping_spends_what_its_steps_spend(tmp_path: Path) -> None:
    job = private_job(tmp_path, max_epochs=30, patience=1, lr=3.0)
    _, rows = logged(job)
    assert len(rows) < 30
    steps = len(rows) * round(200 / 32)
    noise = rows[0]["noise_multiplier"]
    assert rows[-1]["epsilon"] == epsilon_spent(noise, 32 / 200, steps, 1e-4)
    assert rows[-1]["epsilon"] < 2.5


def test_a_killed_training_ends_as_the_undisturbed_one_with_the_same_secret(tmp_path: Path) -> None:
    job = private_job(tmp_path)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    Secret(whole)
    cut.mkdir()
    shutil.copy(whole / "secret", cut)
    undisturbed, rows = logged(job, whole)

    def killed(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 1:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit(job, [killed], cut)
    assert (cut / "secret").exists()
    resumed, more = logged(job, cut)
    assert len(more) < len(rows)
    assert more[-1]["epsilon"] == rows[-1]["epsilon"]
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_empty_batches_pass(tmp_path: Path) -> None:
    _, rows = logged(private_job(tmp_path, 60, max_epochs=2, batch_size=2, precision="bf16-mixed"))
    assert math.isfinite(rows[0]["train_loss"])


@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_the_budget_is_that_of_another_accountant(epsilon: float) -> None:
    """Opacus' accountant of privacy loss variables is tighter by some per cent, and never allows less."""
    from opacus.accountants import PRVAccountant

    rate, steps = 0.02, 400
    noise = noise_multiplier(Privacy(epsilon=epsilon), rate, steps)
    other = PRVAccountant()
    other.history = [(noise, rate, steps)]
    tighter = other.get_epsilon(delta=1e-5)
    assert 0.75 * epsilon < tighter <= 1.01 * epsilon
    assert epsilon_spent(noise, rate, steps, 1e-5) == pytest.approx(epsilon, rel=0.01, abs=0.011)
    assert epsilon_spent(noise, rate, 0, 1e-5) == 0.0


def test_one_step_on_all_samples_is_the_gaussian_mechanism() -> None:
    """Against its exact delta: Balle and Wang, "Improving the Gaussian Mechanism" (2018)."""
    privacy = Privacy(epsilon=1.0, delta=1e-4)
    noise = noise_multiplier(privacy, 1.0, 1)
    exact = norm.cdf(0.5 / noise - noise) - math.e * norm.cdf(-0.5 / noise - noise)
    assert privacy.delta / 20 < exact <= privacy.delta


def test_who_trained_is_harder_to_tell_with_privacy_than_without(tmp_path: Path) -> None:
    """Membership inference by the loss (Yeom et al., 2018); labels are random: what fits them is known by heart."""
    draw = np.random.default_rng(2)
    rows, labels = draw.normal(size=(160, 20)).astype(np.float32), draw.integers(0, 2, 160)
    settings = {"max_epochs": 40, "batch_size": 20, "lr": 0.01, "weight_decay": 0.0}
    inside = np.arange(160) < 80
    found = {}
    for epsilon in (0.0, 1.0):
        job = table_job(
            tmp_path, (rows[:80], labels[:80]), (rows[80:], labels[80:]),
            {**settings, "privacy": {"epsilon": epsilon, "delta": 1e-3}}, {**LAYER, "width": 64},
        )  # fmt: skip
        folder = tmp_path / str(epsilon)
        folder.mkdir()
        (folder / "secret").write_bytes(b"known, so that this test repeats"[:32])
        served = fit(job, [], folder, best=False)
        with torch.no_grad():
            sure = served(torch.from_numpy(rows)).numpy()[np.arange(160), labels]
        found[epsilon] = float(roc_auc_of(np.ones((1, 160)), inside, sure)[0])
    assert found[0.0] > 0.85
    assert found[1.0] < 0.68
