"""`model.initialisation` means what it says: measured on the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from models import build
from models.initialisation import GATES
from tests.samples import PAIRS, params_of, rows_of, served_of, spec_of, transform_of

pytestmark = pytest.mark.usefixtures("one_thread", "small_trunk")
every = pytest.mark.parametrize(("family", "modality"), PAIRS)


def matrices(net: nn.Module) -> Iterator[tuple[str, torch.Tensor, int]]:
    """Weights with their name and fan-in, each gate of a recurrent layer as one."""
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            yield name, layer.weight.detach(), layer.weight[0].numel()
        elif isinstance(layer, nn.RNNBase):
            for part, weight in layer.named_parameters():
                if weight.ndim == 2:
                    for gate in weight.detach().chunk(GATES[type(layer)]):
                        yield f"{name}.{part}", gate, gate.shape[1]


def network(family: str, modality: str, init: str) -> nn.Module:
    torch.manual_seed(0)
    spec = spec_of(modality)
    params = params_of(family, initialisation=init, width=48, depth=2, normalisation="none")
    return build(params, spec, transform_of(spec))


@every
@pytest.mark.parametrize("init", ["he", "xavier"])
def test_variances(family: str, modality: str, init: str) -> None:
    checked = 0
    for name, weight, fan_in in matrices(network(family, modality, init)):
        fan_out = weight.shape[0] * weight[0, 0].numel()
        expected = 2 / fan_in if init == "he" else 2 / (fan_in + fan_out)
        tolerance = 8 * (2 / weight.numel()) ** 0.5  # eight standard errors of a variance
        if tolerance < 0.5:
            assert abs(weight.var().item() / expected - 1) < tolerance, name
            assert abs(weight.mean().item()) < 5 * (expected / weight.numel()) ** 0.5, name
            checked += 1
            if init == "xavier":
                assert weight.abs().max() <= (3 * expected) ** 0.5 * 1.0001, f"{name} is uniform"
    assert checked >= 2


@every
def test_orthogonal(family: str, modality: str) -> None:
    for name, weight, fan_in in matrices(network(family, modality, "orthogonal")):
        flat = weight.reshape(-1, fan_in)
        flat = flat if flat.shape[0] <= fan_in else flat.t()
        torch.testing.assert_close(flat @ flat.t(), torch.eye(len(flat)), atol=1e-5, rtol=0, msg=name)


@every
def test_biases_begin_at_0_and_default_is_pytorchs(family: str, modality: str) -> None:
    for init in ("he", "xavier", "orthogonal"):
        net = network(family, modality, init)
        for layer in net.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.RNNBase):
                assert not any(weight.any() for name, weight in layer.named_parameters() if "bias" in name)
    net = network(family, modality, "default")
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            assert 0.7 * bound < layer.weight.abs().max() <= bound


def test_the_first_network_begins_as_it_always_did() -> None:
    """Sums of the default network's answers, as they were before normalisation and initialisation could be chosen."""
    served = served_of(params_of("cnn", width=12, depth=3), spec_of("image"), seed=3).eval()
    assert "net.features.3.path.1.running_mean" in served.state_dict()
    found = served.raw(rows_of(spec_of("image"), 2))[0]
    expected = torch.tensor(EXPECTED)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


EXPECTED = [0.077835, 0.208612, 0.071586, -0.061258, 0.143581]
