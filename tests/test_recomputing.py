"""`compute.checkpoint_activations`: the same weights as without, and fewer bytes kept for the backward pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.recomputing import Block, Chain, recompute
from models.served import Served
from pipeline.fitting.fit import Job, Train, fit
from serving.inputs.spec import Transform
from tests.conftest import digits, write_dataset
from tests.conftest import spec_of as digits_spec
from tests.samples import PAIRS, params_of, rows_of, served_of, spec_of, transform_of
from tests.small import CPU
from tests.test_job import written

pytestmark = pytest.mark.usefixtures("one_thread", "small_trunk")
SAVING = CPU.model_copy(update={"checkpoint_activations": True})


def same(job: Job) -> None:
    """Both trainings end in the same bits: weights, running statistics and their counts."""
    plain, saving = (fit(dataclasses.replace(job, compute=compute), []) for compute in (CPU, SAVING))
    assert plain.state_dict().keys() == saving.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, saving.state_dict()[name]), name
    assert not any(getattr(module, "recomputed", False) for module in saving.modules())


@pytest.mark.parametrize(("family", "modality"), PAIRS)
def test_every_family_ends_with_the_same_weights(
    family: str, modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, whose draws are repeated, and batch normalisation, which counts each batch once."""
    counted: list[int] = []
    monkeypatch.setattr(
        "pipeline.fitting.assembly.recompute", lambda net: counted.append(recompute(net)) or counted[-1]
    )
    data = written(tmp_path, modality, 50, 1)
    given = {"max_epochs": 2, "batch_size": 16, "unfreeze": 2 if family == "transfer" else 0}
    model = params_of(family, dropout=0.3, normalisation="batch")
    transform = transform_of(spec_of(modality))
    same(Job(model, Train.model_validate(given), data.spec, transform, tmp_path, tmp_path, 1, CPU))
    assert counted[0] >= 1, "the family has blocks"


@pytest.mark.parametrize("family", ["autoencoder", "gan"])
def test_tasks_without_a_target_end_with_the_same_weights(family: str, tmp_path: Path) -> None:
    write_dataset(tmp_path, *digits(64, 1))
    task = {"autoencoder": "anomaly", "gan": "generation"}[family]
    spec = digits_spec((1, 28, 28), tuple("0123456789")).model_copy(update={"task": task})
    train, transform = Train(max_epochs=1, batch_size=32), Transform(mean=(60.0,), std=(80.0,))
    same(
        Job(
            params_of(family, dropout=0.3, variational=True),
            train,
            spec,
            transform,
            tmp_path,
            tmp_path,
            1,
            CPU,
        )
    )


def kept(served: Served, rows: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once, weights left out.

    PyTorch's hooks see what operations keep; what blocks are given, which their recomputation keeps, is added.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in served.parameters()}
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def given(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for each in inputs:
            if isinstance(each, torch.Tensor):
                keep(each.detach())

    for module in served.net.modules():
        if isinstance(module, Block | Chain) and getattr(module, "recomputed", False):
            module.register_forward_pre_hook(given)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = served.raw(rows)
    assert out.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize(
    ("family", "modality"),
    [("cnn", "image"), ("cnn", "series"), ("transformer", "text"), ("fnn", "table"), ("lstm", "series")],
)
def test_fewer_bytes_are_kept(family: str, modality: str) -> None:
    """Of four blocks one would be kept at a time; here all are let go, so half is asked for."""
    spec = spec_of(modality)
    model = params_of(family, width=32, depth=4, dropout=0.2)
    bytes_kept = []
    for saving in (False, True):
        served = served_of(model, spec).train()
        recompute(served.net, saving)
        bytes_kept.append(kept(served, rows_of(spec, 64)))
    assert bytes_kept[1] < 0.5 * bytes_kept[0], bytes_kept
