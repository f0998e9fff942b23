"""One contract for every registered family and modality that it fits: naming it in `MODELS` is enough."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import MODELS, build, families
from models.auto import MANY, choose
from models.fronts import FRONTS
from models.gan import Generator
from models.initialisation import INITIALISATIONS
from models.layers import ACTIVATIONS, NORMALISATIONS, PICTURE_NORMALISATIONS
from models.params import Activation, Family, Initialisation, Model, Normalisation
from models.served import load, save
from pipeline.fitting.conditions import read_by
from serving.inputs.spec import Modality
from tests.samples import (
    CLASSES,
    FIELDS,
    PAIRS,
    learners,
    params_of,
    rows_of,
    served_of,
    spec_of,
    trained,
    transform_of,
)

pytestmark = pytest.mark.usefixtures("one_thread", "small_trunk")
every = pytest.mark.parametrize(("family", "modality"), PAIRS)
normalised = pytest.mark.parametrize("norm", get_args(Normalisation))
# Each activation with a normalisation and an initialisation, each of which occurs twice.
SETTINGS = list(
    zip(ACTIVATIONS, 2 * get_args(Normalisation), (*get_args(Initialisation), "he", "xavier"), strict=True)
)


def test_every_name_of_the_parameters_is_registered() -> None:
    assert set(get_args(Family)) == {"auto", *MODELS}
    assert set(get_args(Activation)) == set(ACTIVATIONS)
    assert set(get_args(Normalisation)) == set(NORMALISATIONS) == set(PICTURE_NORMALISATIONS)
    assert set(get_args(Initialisation)) == {"default", *INITIALISATIONS}
    assert {modality for _, modality in PAIRS} == set(get_args(Modality)) == set(FRONTS)
    assert len(PAIRS) >= 15
    assert len(SETTINGS) == 6


@every
@pytest.mark.parametrize(("act", "norm", "init"), SETTINGS)
def test_shapes_and_gradients(family: str, modality: str, act: str, norm: str, init: str) -> None:
    spec = spec_of(modality)
    served = served_of(params_of(family, activation=act, normalisation=norm, initialisation=init), spec)
    logits = served.train().raw(rows_of(spec, 6))
    assert logits.shape == (6, len(CLASSES))
    F.cross_entropy(logits, torch.arange(6) % len(CLASSES)).backward()
    for name, weight in served.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        # Under batch normalisation a constant added before it has no part in the answer.
        assert weight.grad.any() or (norm == "batch" and weight.ndim == 1), (
            f"{name} has no part in the answer"
        )
    found = served.eval()(rows_of(spec, 6))
    assert found.dtype == torch.float32
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(1), torch.ones(6))


@every
def test_a_regression_answers_in_the_targets_units(family: str, modality: str) -> None:
    spec = spec_of(modality, "regression")
    served = trained(params_of(family), spec)
    rows = rows_of(spec, 6)
    expected = served.raw(rows) * torch.tensor([10.0, 8.0]) + torch.tensor([170.0, 70.0])
    torch.testing.assert_close(served(rows), expected)
    torch.testing.assert_close(served.scaled(served(rows)), served.raw(rows), atol=1e-4, rtol=1e-4)


@every
@normalised
def test_one_batch_is_learnt_by_heart(family: str, modality: str, norm: str) -> None:
    spec = spec_of(modality)
    served = served_of(params_of(family, normalisation=norm, width=16), spec).train()
    inputs, targets = rows_of(spec, 8), torch.arange(8) % len(CLASSES)
    optimiser = torch.optim.Adam(learners(served), lr=0.01)
    for _ in range(200):
        found = served.raw(inputs)
        loss = F.cross_entropy(found, targets)
        if loss < 0.05:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05
    assert found.argmax(1).equal(targets)


@every
def test_saved_and_loaded_it_gives_equal_answers(family: str, modality: str, tmp_path: Path) -> None:
    spec = spec_of(modality)
    params = params_of(family, dropout=0.5)
    served, rows = trained(params, spec), rows_of(spec, 7)
    save(served, params, spec, transform_of(spec), tmp_path)
    again = load(tmp_path)
    assert not again.training
    assert torch.equal(served(rows), again(rows))
    assert not torch.equal(served(rows), served_of(params, spec).eval()(rows))


@every
@pytest.mark.parametrize("init", get_args(Initialisation))
def test_the_seed_alone_decides_what_is_built(family: str, modality: str, init: str) -> None:
    params, spec = params_of(family, initialisation=init), spec_of(modality)
    first, same, other = (served_of(params, spec, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@every
def test_training_differs_by_dropout_and_normalisation_alone(family: str, modality: str) -> None:
    spec = spec_of(modality)
    rows = rows_of(spec, 8)
    for norm, dropout, alike in (
        ("none", 0.0, True),
        ("layer", 0.0, True),
        ("none", 0.5, False),
        ("batch", 0.0, False),
    ):
        served = trained(params_of(family, normalisation=norm, dropout=dropout), spec)
        expected = served(rows)
        assert torch.equal(served(rows), expected)
        assert torch.equal(served.train()(rows), expected) == alike, (norm, dropout)


@pytest.mark.parametrize(
    ("family", "modality", "depth"), [(*pair, depth) for pair, depth in product(PAIRS, (0, 1, 7))]
)
def test_any_depth_fits_the_least_input(family: str, modality: str, depth: int) -> None:
    spec = spec_of(modality)
    if depth == 0 and family in ("rnn", "lstm", "gru"):
        with pytest.raises(ValueError, match=r"model\.depth is 0.* at least 1"):
            served_of(params_of(family, depth=0), spec)
        return
    served = served_of(params_of(family, depth=depth, width=2), spec).eval()
    assert served(rows_of(spec, 3, 1)).shape == (3, len(CLASSES))


@every
def test_width_depth_and_dropout_are_used(family: str, modality: str) -> None:
    spec = spec_of(modality)

    def size(**more: object) -> int:
        return sum(weight.numel() for weight in served_of(params_of(family, **more), spec).parameters())

    assert size() < size(width=16)
    assert size() < size(depth=3)
    served = served_of(params_of(family, dropout=0.5, normalisation="none"), spec)
    rows = rows_of(spec, 8)
    assert not torch.equal(served.train()(rows), served(rows))
    assert torch.equal(served.eval()(rows), served(rows))


@pytest.mark.parametrize("family", families("table"))
@pytest.mark.parametrize("fields", [FIELDS[:3], FIELDS[3:]], ids=["numbers", "categories"])
def test_tables_of_one_kind(family: str, fields: tuple) -> None:
    spec = spec_of("table", fields=fields)
    served = trained(params_of(family), spec)
    found = served(rows_of(spec, 6))
    assert found.shape == (6, len(CLASSES))
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("modality", get_args(Modality))
def test_a_family_that_does_not_fit_is_told(modality: str) -> None:
    spec = spec_of(modality)
    wrong = sorted(set(MODELS) - set(families(modality)))
    for family in wrong:
        with pytest.raises(
            ValueError, match=f"'{family}' does not fit classification of modality '{modality}'"
        ) as told:
            served_of(params_of(family), spec)
        assert str(told.value).endswith(f"expected one of {', '.join(families(modality))}")
    assert wrong or modality in ("series", "text")
    with pytest.raises(ValueError, match="chosen once for the data"):
        served_of(params_of("auto"), spec)


@pytest.mark.parametrize("modality", get_args(Modality))
def test_auto_chooses_what_fits(modality: str) -> None:
    for rows in (10, MANY - 1, MANY, 10**7):
        family, reason = choose(spec_of(modality), rows)
        assert family in families(modality)
        assert len(reason) > 20
    few, many = (choose(spec_of(modality), rows)[0] for rows in (MANY - 1, MANY))
    assert (few != many) == (modality in ("series", "text"))


def test_normalisation_is_the_transforms() -> None:
    spec = spec_of("image")
    rows = rows_of(spec, 4)
    expected = (rows.numpy().transpose(0, 2, 3, 1) - np.array([100, 50, 0])) / np.array([50, 100, 50])
    found = served_of(params_of("fnn"), spec).front(rows).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_parameters_that_do_not_go_together_are_told() -> None:
    with pytest.raises(ValueError, match=r"model\.width is 8 and model\.heads is 3"):
        served_of(params_of("transformer", heads=3), spec_of("text"))
    with pytest.raises(ValueError, match=r"model\.kernel is 4.*odd"):
        served_of(params_of("cnn", kernel=4), spec_of("series"))
    assert Model().family in families("image")


EVERY_TASK = [(family, modality) for family, network in MODELS.items() for modality in network.modalities]


@pytest.mark.parametrize(("family", "modality"), EVERY_TASK)
def test_the_fields_that_a_network_reads_are_those_that_are_told(family: str, modality: str) -> None:
    read: set[str] = set()

    class Watched(Model, frozen=True):
        def __getattribute__(self, name: str) -> Any:
            if name in Model.model_fields:
                read.add(name)
            return super().__getattribute__(name)

    spec = spec_of(modality).model_copy(update={"task": MODELS[family].tasks[0]})
    params = Watched.model_validate(params_of(family).model_dump() | {"depth": 2})
    read.clear()
    net = build(params, spec, transform_of(spec))
    if isinstance(net, Generator):
        net.critic()
    assert read == read_by(family, modality)
