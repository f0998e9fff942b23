"""`train.precision`: bf16-mixed computes in 16 bits, on a CPU too, and keeps 32-bit weights and losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.params import UserError
from pipeline.fitting.fit import Job, Train, fit
from pipeline.fitting.trainer import make_trainer
from serving.inputs.spec import Transform
from tests.conftest import digits, write_dataset
from tests.conftest import spec_of as digits_spec
from tests.samples import PAIRS, params_of, spec_of, transform_of
from tests.small import CPU, blobs, table_job
from tests.test_job import written

pytestmark = pytest.mark.usefixtures("one_thread", "small_trunk")


def watched(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> tuple[set[torch.dtype], set[torch.dtype], dict[str, float]]:
    """What layers gave and what losses were made of, in a training; and its last metrics."""
    seen: set[torch.dtype] = set()
    lost: set[torch.dtype] = set()
    curve: list[dict[str, float]] = []
    apply, entropy = nn.Linear.forward, nn.functional.cross_entropy

    def linear(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        out = apply(self, x)
        seen.add(out.dtype)
        return out

    def loss(logits: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        found = entropy(logits, *given, **more)
        lost.add(found.dtype)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(nn.Linear, "forward", linear)
        patched.setattr("torch.nn.functional.cross_entropy", loss)
        served = fit(job, [lambda _, metrics: curve.append(metrics)])
    assert {weight.dtype for weight in served.parameters()} == {torch.float32}
    return seen, lost, curve[-1]


@pytest.mark.parametrize(("family", "modality"), PAIRS)
def test_every_family_trains_in_bf16(
    family: str, modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = written(tmp_path, modality, 40, 1)
    train = Train.model_validate({"max_epochs": 1, "batch_size": 16, "precision": "bf16-mixed"})
    transform = transform_of(spec_of(modality))
    compute = CPU.model_copy(update={"cache_features": False})  # which are computed before, in 32 bits
    job = Job(params_of(family), train, data.spec, transform, tmp_path, tmp_path, 1, compute)
    seen, lost, last = watched(job, monkeypatch)
    assert seen == {torch.bfloat16}
    assert lost == {torch.float32}
    assert all(np.isfinite(value) for value in last.values())


@pytest.mark.parametrize("family", ["autoencoder", "gan"])
def test_tasks_without_a_target_train_in_bf16(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"autoencoder": "anomaly", "gan": "generation"}[family]
    write_dataset(tmp_path, *digits(64, 1))
    spec = digits_spec((1, 28, 28), tuple("0123456789")).model_copy(update={"task": task})
    train = Train.model_validate({"max_epochs": 1, "batch_size": 32, "precision": "bf16-mixed"})
    transform = Transform(mean=(60.0,), std=(80.0,))
    job = Job(params_of(family, variational=True), train, spec, transform, tmp_path, tmp_path, 1, CPU)
    seen, _, last = watched(job, monkeypatch)
    assert torch.bfloat16 in seen
    assert all(np.isfinite(value) for value in last.values())


def test_it_learns_as_well_and_32_bits_stay_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {}
    for precision, kind in (
        ("bf16-mixed", torch.bfloat16),
        ("auto", torch.float32),
        ("32-true", torch.float32),
    ):
        job = table_job(tmp_path, blobs(300, 0), blobs(200, 1), {"precision": precision})
        seen, _, last = watched(job, monkeypatch)
        assert seen == {kind}
        scores[precision] = last["val_score"]
    assert scores["auto"] == scores["32-true"]
    assert abs(scores["bf16-mixed"] - scores["32-true"]) < 0.03


def test_16_bit_floats_without_a_gpu_are_refused(tmp_path: Path) -> None:
    job = table_job(tmp_path, blobs(40, 0), blobs(40, 1), {"precision": "16-mixed"})
    with pytest.raises(
        UserError, match=r"train\.precision '16-mixed' is for GPUs.*use bf16-mixed or 32-true"
    ):
        fit(job, [])
    with pytest.raises(UserError, match=r"training runs on the CPU here; use bf16-mixed or 32-true"):
        make_trainer(dataclasses.replace(job, compute=CPU.model_copy(update={"accelerator": "auto"})), [])
