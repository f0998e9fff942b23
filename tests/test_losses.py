"""Losses: each against an independent reference, and how the section `train` chooses among them."""

from __future__ import annotations

import doctest
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from models import losses
from models.losses import Loss, balanced, classification, l1, regression
from models.optimiser import Optimiser
from pipeline.core.params import UserError
from pipeline.fitting.fit import Train, assemble, fit
from tests.small import blobs, table_job

DRAW = torch.Generator().manual_seed(0)
LOGITS = torch.randn(50, 4, generator=DRAW, dtype=torch.float64)
LABELS = torch.randint(0, 4, (50,), generator=DRAW)
SHARES = torch.rand(50, 4, generator=DRAW, dtype=torch.float64).softmax(1)
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("weights", "smoothing", "soft"), list(product([None, WEIGHTS], [0.0, 0.2], [False, True]))
)
def test_focal_loss_without_gamma_is_cross_entropy(
    weights: torch.Tensor | None, smoothing: float, soft: bool
) -> None:
    targets = SHARES if soft else LABELS
    expected = F.cross_entropy(LOGITS, targets, weights, label_smoothing=smoothing)
    found = classification(LOGITS, targets, weights, smoothing, focal=1e-12)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(classification(LOGITS, targets, weights, smoothing), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_is_that_of_the_paper(gamma: float) -> None:
    sure = LOGITS.softmax(1).numpy()[np.arange(50), LABELS.numpy()]
    expected = (-((1 - sure) ** gamma) * np.log(sure)).mean()
    assert float(classification(LOGITS, LABELS, focal=gamma)) == pytest.approx(expected)


def test_focal_loss_has_finite_gradients_where_all_is_certain() -> None:
    logits = torch.tensor([[60.0, -60.0], [-200.0, 200.0]], requires_grad=True)
    loss = classification(logits, torch.tensor([0, 0]), focal=0.5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert float(loss) == pytest.approx(200.0)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2], [70, 25, 5])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced(torch.tensor([70, 25, 5])).numpy(), expected, rtol=1e-6)
    assert balanced(torch.tensor([5, 0, 5])).tolist() == [1.0, 0.0, 1.0]
    assert doctest.testmod(losses).attempted == 3
    assert doctest.testmod(losses).failed == 0


def test_huber_squares_small_errors_and_is_linear_in_large_ones() -> None:
    zero = torch.zeros(1, 1)
    assert float(regression(zero, zero + 3)) == 9
    assert float(regression(zero, zero + 0.5, huber=1.0)) == 0.25
    far, farther = (float(regression(zero, zero + error, huber=1.0)) for error in (10, 11))
    assert farther - far == pytest.approx(2.0)


def test_the_penalty_counts_weights_and_no_biases() -> None:
    assert float(l1([torch.tensor([[1.0, -2.0]]), torch.tensor([5.0])])) == 3


def test_validation_reports_the_plain_loss_whatever_is_minimised() -> None:
    settings = Optimiser(class_weights="balanced", focal=2.0, label_smoothing=0.1)
    loss = Loss(settings, True, torch.tensor([5, 1, 1, 1]))
    logits = LOGITS.float()
    torch.testing.assert_close(loss.plain(logits, LABELS), F.cross_entropy(logits, LABELS))
    expected = classification(logits, LABELS, balanced(torch.tensor([5, 1, 1, 1])), 0.1, 2.0)
    torch.testing.assert_close(loss.training(logits, LABELS), expected)


def test_weights_come_from_the_training_counts_alone(tmp_path: Path) -> None:
    job = table_job(tmp_path, blobs(100, 0, share=0.1), blobs(50, 1), {"class_weights": "balanced"})
    task, *_ = assemble(job)
    torch.testing.assert_close(task.loss._weights, torch.tensor([100 / 180, 100 / 20]))


def test_l1_makes_weights_small(tmp_path: Path) -> None:
    sizes = []
    for at, strength in enumerate((0.0, 0.02)):
        served = fit(table_job(tmp_path / str(at), blobs(200, 0), blobs(100, 1), {"l1": strength}), [])
        sizes.append(float(l1(served.parameters())))
    assert sizes[1] < 0.6 * sizes[0]


def test_huber_withstands_outliers(tmp_path: Path) -> None:
    """One target in twenty is absurd: the line through the rest is found with Huber's loss, not with squares."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(400, 1)).astype(np.float32)
    clean = (2 * rows).astype(np.float32)
    dirty = clean.copy()
    dirty[::20] += 60
    errors = []
    for at, huber in enumerate((0.0, 0.05)):
        job = table_job(
            tmp_path / str(at), (rows, dirty), (rows, clean), {"huber": huber, "max_epochs": 30}, {"depth": 0}
        )
        errors.append(float((fit(job, [])(torch.from_numpy(rows)) - torch.from_numpy(clean)).abs().mean()))
    assert errors[1] < 0.4 * errors[0], errors


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"huber": 1.0}, "train.huber is of use to a regression.*set it to 0.0"),
        ({"cutmix": 1.0, "mixup": 0.2}, "train.mixup and train.cutmix exclude each other"),
        ({"cutmix": 1.0}, "train.cutmix pastes parts of images.*table"),
    ],
)
def test_what_the_data_has_no_use_for_is_refused(
    settings: dict[str, float], reason: str, tmp_path: Path
) -> None:
    job = table_job(tmp_path, blobs(40, 0), blobs(40, 1), settings)
    with pytest.raises(UserError, match=reason):
        assemble(job)


@pytest.mark.parametrize("name", ["class_weights", "focal", "sampling"])
def test_a_regression_takes_no_losses_of_classes(name: str, tmp_path: Path) -> None:
    value = {"class_weights": "balanced", "focal": 2.0, "sampling": "over"}[name]
    rows = np.ones((10, 2), np.float32)
    job = table_job(tmp_path, (rows, rows), (rows, rows), {name: value})
    with pytest.raises(UserError, match=f"train.{name} is of use to a classification"):
        assemble(job)


def test_the_documentation_names_every_parameter_with_its_default() -> None:
    lines = (Path(__file__).parents[1] / "docs" / "training.md").read_text().splitlines()
    cells = [line.split("|")[1:3] for line in lines if line.startswith("| `")]
    told = {name.strip(" `"): default.strip() for name, default in cells}
    assert len(Train.model_fields) >= 19
    for name, field in Train.model_fields.items():
        default = "" if field.default_factory else str(field.default)
        assert told.get(name) == (default.lower() if field.default is True else default), name
