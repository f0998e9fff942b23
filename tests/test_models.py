"""One contract for every registered model: a new family is tested by being named in `MODELS`."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import MODELS, build
from models.layers import ACTIVATIONS
from models.params import Activation, Model
from models.served import Served, load, save
from pipeline.export import export_graphs
from serving.inputs.spec import Transform
from serving.predictor import BACKENDS, Predictor
from tests.conftest import spec_of

CLASSES = tuple("abcde")
SHAPES = ((1, 28, 28), (3, 33, 17))
CASES = list(product(MODELS, SHAPES, ACTIVATIONS))
contract = pytest.mark.parametrize(
    ("family", "shape", "act"), CASES, ids=[f"{f}-{'x'.join(map(str, s))}-{a}" for f, s, a in CASES]
)


def params_of(family: str, act: str = "relu", **more: object) -> Model:
    given = {"family": family, "activation": act, "width": 8, "depth": 2, "dropout": 0.0, **more}
    return Model.model_validate(given)


def served_of(params: Model, shape: tuple[int, ...], seed: int = 0) -> Served:
    torch.manual_seed(seed)
    channels = np.arange(shape[0])
    transform = Transform(mean=tuple(100.0 + 9 * channels), std=tuple(50.0 + 7 * channels))
    return Served(build(params, spec_of(shape, CLASSES)), transform)


def batch(count: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def moved(served: Served, shape: tuple[int, ...]) -> Served:
    """As after some training: running statistics and weights that no initialisation gives."""
    with torch.no_grad():
        served.train()(batch(16, shape))
        for weight in served.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    return served.eval()


def saved(params: Model, shape: tuple[int, ...], folder: Path) -> Served:
    served = moved(served_of(params, shape), shape)
    transform = Transform(
        mean=tuple(served.mean.flatten().tolist()), std=tuple(served.std.flatten().tolist())
    )
    save(served, params, spec_of(shape, CLASSES), transform, folder)
    return served


def test_every_name_of_the_parameters_is_registered() -> None:
    assert set(get_args(Model.model_fields["family"].annotation)) == set(MODELS)
    assert set(get_args(Activation)) == set(ACTIVATIONS)
    assert len(CASES) >= 20


@contract
def test_shapes_and_gradients(family: str, shape: tuple[int, ...], act: str) -> None:
    served = served_of(params_of(family, act), shape).train()
    logits = served.logits(batch(6, shape))
    assert logits.shape == (6, len(CLASSES))
    F.cross_entropy(logits, torch.arange(6) % len(CLASSES)).backward()
    for name, weight in served.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), f"{name} has no part in the answer"
    found = served.eval()(batch(6, shape))
    assert found.dtype == torch.float32
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(1), torch.ones(6))


@contract
def test_one_batch_is_learnt_by_heart(family: str, shape: tuple[int, ...], act: str) -> None:
    served, inputs, targets = (
        served_of(params_of(family, act), shape).train(),
        batch(8, shape),
        torch.arange(8) % 5,
    )
    optimiser = torch.optim.Adam(served.parameters(), lr=0.03)
    for _ in range(100):
        loss = F.cross_entropy(served.logits(inputs), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.05:
            break
    assert loss < 0.05
    assert served.logits(inputs).argmax(1).equal(targets)


@contract
def test_saved_and_loaded_it_gives_equal_answers(
    family: str, shape: tuple[int, ...], act: str, tmp_path: Path
) -> None:
    served = saved(params_of(family, act, dropout=0.5), shape, tmp_path)
    again = load(tmp_path)
    assert not again.training
    assert torch.equal(served(batch(7, shape)), again(batch(7, shape)))
    assert not torch.equal(
        served(batch(7, shape)), served_of(params_of(family, act), shape).eval()(batch(7, shape))
    )


@contract
def test_the_seed_alone_decides_what_is_built(family: str, shape: tuple[int, ...], act: str) -> None:
    first, same, other = (served_of(params_of(family, act), shape, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("family", "depth"), list(product(MODELS, range(7))))
def test_any_depth_fits_the_smallest_picture(family: str, depth: int) -> None:
    served = served_of(params_of(family, depth=depth, width=2), (1, 4, 4)).eval()
    assert served(batch(3, (1, 4, 4))).shape == (3, len(CLASSES))


@pytest.mark.parametrize("family", MODELS)
def test_width_depth_and_dropout_are_used(family: str) -> None:
    def size(**more: object) -> int:
        return sum(
            weight.numel() for weight in served_of(params_of(family, **more), (1, 28, 28)).parameters()
        )

    assert size() < size(width=16)
    assert size() < size(depth=3)
    served = served_of(params_of(family, dropout=0.5), (1, 28, 28)).train()
    assert not torch.equal(served(batch(8, (1, 28, 28))), served(batch(8, (1, 28, 28))))
    served.eval()
    assert torch.equal(served(batch(8, (1, 28, 28))), served(batch(8, (1, 28, 28))))


def test_normalisation_is_the_transforms() -> None:
    served = served_of(params_of("fnn"), (3, 33, 17))
    images = batch(4, (3, 33, 17))
    mean, std = np.array([100, 109, 118]), np.array([50, 57, 64])
    expected = (images.numpy().transpose(0, 2, 3, 1) - mean) / std
    np.testing.assert_allclose(
        served.normalise(images).permute(0, 2, 3, 1).numpy(), expected, rtol=1e-5, atol=1e-6
    )


# --- what is shipped


def pickled(raw: bytes) -> bool:
    """True where bytes are a pickle of any protocol, or an archive that holds one."""
    if zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return any(name.endswith(".pkl") or pickled(archive.read(name)) for name in archive.namelist())
    if raw[:1] == b"\x80" and raw[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(raw))
    except ValueError:
        return False


def test_a_pickle_would_be_found() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickled(pickle.dumps({"weight": [1.0, print]}, protocol))
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    assert pickled(buffer.getvalue())
    assert not pickled(b'{"mean": 3}')


@pytest.mark.slow
@pytest.mark.parametrize(("family", "shape"), list(product(MODELS, SHAPES)))
def test_exported_it_gives_equal_answers_and_holds_no_pickle(
    family: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    served = saved(params_of(family, "silu", dropout=0.5), shape, tmp_path)
    export_graphs(load(tmp_path), shape, tmp_path)
    predictors = {name: Predictor(tmp_path, name) for name in BACKENDS}
    for count in (1, 2, 7):
        inputs = batch(7, shape)[:count]
        with torch.inference_mode():
            expected = served(inputs).numpy()
        for name, predictor in predictors.items():
            found = predictor.probabilities(inputs.numpy())
            assert found.shape == (count, len(CLASSES))
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=name)
    together = predictors["onnx"].probabilities(batch(7, shape).numpy(), chunk=3)
    np.testing.assert_allclose(together, served(batch(7, shape)).detach().numpy(), atol=2e-6)
    assert predictors["onnx"].probabilities(batch(7, shape)[:0].numpy()).shape == (0, len(CLASSES))
    files = {"model.onnx", "model.pt2", "weights.safetensors", "model.json", "spec.json", "transform.json"}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert not [path.name for path in tmp_path.iterdir() if pickled(path.read_bytes())]
