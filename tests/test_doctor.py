"""The training doctor: silent on healthy trainings, and names what is wrong with those broken on purpose."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.params import Model
from models.served import Served
from pipeline.fitting import assembly, diagnoses
from pipeline.fitting.diagnoses import Diagnosis, Facts, Look, diagnose, report
from pipeline.fitting.doctor import Doctor
from pipeline.fitting.fit import Job, Train, fit
from serving.inputs.spec import Transform
from tests.conftest import digits, spec_of, write_dataset
from tests.small import CPU, blobs, table_job
from tests.test_job import job_of

LOOK = Look(0, 0.01, 1.0, {"0": 1.0, "1": 1.0}, {"0": 0.01, "1": 0.01}, {}, {}, {}, {"a": 0.0})
HEALTHY = Facts((LOOK,) * 4, (0.6, 0.3, 0.2), (0.5, 0.3, 0.25), 0.69, 0.69, 0.01)


def seen(job: Job, monkeypatch: pytest.MonkeyPatch | None = None, net: nn.Module | None = None) -> Facts:
    """Train and give what the doctor saw; with `net` in the place of the network that the job asks for."""
    if net is not None:
        assert monkeypatch is not None

        class Broken(Served):
            def __init__(self, *given: Any) -> None:
                super().__init__(*given)
                self.net = net

        monkeypatch.setattr(assembly, "Served", Broken)
    doctor = Doctor()
    fit(job, [], callbacks=[doctor])
    return doctor.facts


def names(facts: Facts) -> list[str]:
    return [found.name for found in diagnose(facts)]


def picture_job(folder: Path, seed: int = 7, model: dict[str, Any] | None = None, **settings: Any) -> Job:
    for name, count, at in (("train", 600, 0), ("val", 200, 1)):
        write_dataset(folder / name, *digits(count, 10 * seed + at))
    fitted = Transform(mean=(60.0,), std=(80.0,))
    chosen = Model.model_validate({"width": 6, "depth": 2, **(model or {})})
    train = Train.model_validate({"max_epochs": 5, "batch_size": 64, **settings})
    spec = spec_of((1, 28, 28), tuple("0123456789"))
    return Job(chosen, train, spec, fitted, folder / "train", folder / "val", seed, CPU)


def deep(activation: type[nn.Module], depth: int, width: int = 16, gain: float = 1.0) -> nn.Sequential:
    """A plain network over the 8 features of rows of 4 numbers, without normalisation."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for at in range(depth):
        layers += [nn.Linear(width if at else 8, width), activation()]
    net = nn.Sequential(*layers, nn.Linear(width, 2))
    with torch.no_grad():
        for weight in net.parameters():
            weight *= gain
    return net


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("family", ["cnn", "fnn"])
def test_healthy_trainings_of_pictures_are_met_with_silence(family: str, seed: int, tmp_path: Path) -> None:
    model = {"family": family, "width": 6 if family == "cnn" else 48}
    facts = seen(picture_job(tmp_path, seed, model, augmentation={"strength": 0}))
    assert facts.val_loss[-1] < 0.8 * facts.val_guess, "it is healthy indeed"
    assert diagnose(facts) == []
    assert len(facts.looks) >= 6
    assert set(facts.looks[0].dead) == set(facts.looks[0].zeros) != set()


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {}, {"label_smoothing": 0.1}, {"class_weights": "balanced"}, {"sampling": "over"}, {"focal": 2.0},
        {"mixup": 0.2}, {"ema": 0.9},
    ],
    ids=str,
)  # fmt: skip
def test_healthy_trainings_of_tables_are_met_with_silence(
    settings: dict[str, Any], seed: int, tmp_path: Path
) -> None:
    share = 0.1 if settings else 0.5
    job = table_job(
        tmp_path, blobs(400, seed, share, 3.0), blobs(400, seed + 9, share, 3.0), settings, seed=seed
    )
    assert diagnose(seen(job)) == []


def test_a_healthy_regression_is_met_with_silence(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    values = (rows[:, :1] - rows[:, 1:2] ** 2).astype(np.float32)
    facts = seen(table_job(tmp_path, (rows[:300], values[:300]), (rows[300:], values[300:]), {}))
    assert diagnose(facts) == []
    assert facts.val_guess == 1


def test_twenty_sigmoid_layers_have_vanishing_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = table_job(tmp_path, blobs(300, 0), blobs(100, 1), {"lr": 0.001})
    found = diagnose(seen(job, monkeypatch, deep(nn.Sigmoid, 20)))
    assert [one.name for one in found] == ["vanishing gradients"]
    assert "model.activation: relu" in found[0].proposal


def test_large_weights_make_gradients_explode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = table_job(tmp_path, blobs(300, 0), blobs(100, 1), {"lr": 1e-4})
    assert names(seen(job, monkeypatch, deep(nn.ReLU, 12, gain=8.0))) == ["exploding gradients"]


def test_units_with_large_negative_biases_are_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = deep(nn.ReLU, 3)
    with torch.no_grad():
        net[2].bias -= 50  # type: ignore[operator]
    job = table_job(tmp_path, blobs(300, 0), blobs(100, 1), {"lr": 0.001})
    found = diagnose(seen(job, monkeypatch, net))
    assert [one.name for one in found] == ["dead units"]
    assert "100 % of the units of 3" in found[0].evidence


@pytest.mark.parametrize("family", ["cnn", "fnn"])
def test_a_learning_rate_of_ten_is_too_high(family: str, tmp_path: Path) -> None:
    found = diagnose(seen(picture_job(tmp_path, 7, {"family": family}, lr=10)))
    assert [one.name for one in found] == ["learning rate too high"]
    assert "train.lr: 1," in found[0].proposal


def test_a_learning_rate_of_a_ten_millionth_is_too_low(tmp_path: Path) -> None:
    found = diagnose(seen(picture_job(tmp_path, lr=1e-7)))
    assert [one.name for one in found] == ["learning rate too low"]


def test_five_samples_and_a_large_network_overfit(tmp_path: Path) -> None:
    settings = {"max_epochs": 60, "lr": 0.01, "batch_size": 5, "weight_decay": 0}
    job = table_job(
        tmp_path, blobs(5, 0, 0.4, 0.5, 30), blobs(200, 1, 0.5, 0.5, 30), settings, {"width": 256}
    )
    assert names(seen(job)) == ["overfitting"]


def test_targets_that_nothing_tells_are_underfitted(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows, labels = draw.normal(size=(2000, 4)).astype(np.float32), draw.integers(0, 2, 2000)
    job = table_job(tmp_path, (rows, labels), (rows[:500], labels[:500]), {"lr": 0.005}, {"width": 4})
    assert names(seen(job)) == ["underfitting"]


# --- the diagnoses as functions of facts


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"train_loss": (0.6, math.nan), "val_loss": (0.6, math.nan)}, ["exploding gradients"]),
        ({"train_loss": (0.6, 0.3, 0.1), "val_loss": (0.6, 0.3, 0.5)}, ["overfitting"]),
        ({"train_loss": (0.6, 0.3, 0.29), "val_loss": (0.6, 0.3, 0.5)}, []),
        ({"train_loss": (0.69, 0.69), "val_loss": (0.69, 0.69)}, ["underfitting"]),
        ({"looks": (), "train_loss": (), "val_loss": ()}, []),
    ],
)
def test_diagnoses_follow_from_facts(changed: dict[str, Any], expected: list[str]) -> None:
    assert names(dataclasses.replace(HEALTHY, **changed)) == expected


def test_a_cause_is_told_and_not_its_effects() -> None:
    wild = dataclasses.replace(LOOK, changes={"0": 5.0, "1": 5.0}, dead={"a": 0.9}, norm=1e9)
    facts = dataclasses.replace(HEALTHY, looks=(wild,) * 4, train_loss=(9.0, 9.0), val_loss=(9.0, 9.0))
    assert names(facts) == ["learning rate too high"]


def test_the_report_is_json_with_nothing_that_json_cannot_say() -> None:
    facts = dataclasses.replace(HEALTHY, train_loss=(0.6, math.inf), val_loss=(math.nan, 0.6))
    plain = json.loads(json.dumps(report(facts), allow_nan=False))
    assert plain["train_loss"] == [0.6, None]
    assert plain["diagnoses"][0]["name"] == "exploding gradients"
    assert plain["looks"][0]["gradients"] == {"0": 1.0, "1": 1.0}
    assert str(Diagnosis("a", "b", "c")) == "a: b; c"
    assert set(diagnoses.EXPLAINS) <= {"learning rate too high", "learning rate too low", "dead units",
                                       "vanishing gradients", "exploding gradients", "unstable GAN"}  # fmt: skip


# --- the callback


def test_the_doctor_changes_no_weight_and_leaves_no_hook(tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [Doctor()]):
        served = fit(picture_job(tmp_path, max_epochs=2), [], callbacks=list(callbacks))
        states.append(served.state_dict())
        assert not any(module._forward_hooks for module in served.modules())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_it_saw_is_reported_each_epoch(tmp_path: Path) -> None:
    told: dict[int, dict[str, float]] = {}
    doctor = Doctor([told.__setitem__])
    fit(picture_job(tmp_path, max_epochs=3), [], callbacks=[doctor])
    assert list(told) == [0, 1, 2]
    assert {"gradient_norm", "gradient/features.0", "change/head.1", "zeros/features.2"} <= told[0].keys()
    assert all(0 <= value <= 1 for name, value in told[0].items() if name.startswith(("zeros", "dead")))


def test_a_resumed_training_is_judged_whole(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(epoch: int, _: dict[str, float]) -> None:
        if epoch == 2:
            raise Killed

    whole, first, second = Doctor(), Doctor(), Doctor()
    job = picture_job(tmp_path, max_epochs=4)
    fit(job, [], tmp_path / "one", [whole])
    with pytest.raises(Killed):
        fit(job, [kill], tmp_path / "two", [first])
    fit(job, [], tmp_path / "two", [second])
    assert second.facts == whole.facts


@pytest.mark.parametrize(
    ("family", "modality"), [("lstm", "series"), ("gru", "text"), ("transformer", "series")]
)
def test_recurrent_networks_and_transformers_are_judged_as_others_are(
    family: str, modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Model.model_validate(
        {"family": family, "width": 16, "depth": 1, "heads": 2, "normalisation": "layer"}
    )
    train = {
        "max_epochs": 8,
        "batch_size": 16,
        "patience": 0,
        "label_smoothing": 0.0,
        "augmentation": {"strength": 0},
    }
    job = job_of(model, modality, Train.model_validate({**train, "lr": 0.01}))
    for rate, found in ((0.01, []), (3.0, ["learning rate too high"]), (1e-7, ["learning rate too low"])):
        broken = dataclasses.replace(job, train=Train.model_validate({**train, "lr": rate}))
        assert names(seen(broken)) == found, rate
