"""Networks over series and texts: padding changes nothing, and what they compute is what PyTorch's own modules do."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.params import Normalisation
from models.recurrent import LAYERS, Direction, Recurrent
from models.sequences import StepNorm, Steps, max_of, mean_of
from tests.samples import RAGGED, padded, params_of, rows_of, served_of, spec_of, trained, transform_of

pytestmark = pytest.mark.usefixtures("one_thread", "small_trunk")
ragged = pytest.mark.parametrize(("family", "modality"), RAGGED)
normalised = pytest.mark.parametrize("norm", get_args(Normalisation))


@ragged
@normalised
def test_padding_changes_no_answer(family: str, modality: str, norm: str) -> None:
    spec = spec_of(modality)
    params = params_of(family, normalisation=norm, depth=3, activation="sigmoid")  # which is not 0 at 0
    served = trained(params, spec)
    rows = rows_of(spec, 7)
    for mode in (served.eval(), served.train()):
        for more in (1, 2, 23):
            torch.testing.assert_close(mode.raw(padded(rows, more)), mode.raw(rows), atol=2e-6, rtol=1e-5)
    served.eval()
    for at, row in enumerate(rows):  # as a sample alone is asked for
        alone = row[: 9 - at % 9].unsqueeze(0)
        torch.testing.assert_close(served(alone)[0], served(rows)[at], atol=2e-6, rtol=1e-5)


@ragged
def test_the_first_and_the_last_step_have_a_part_in_the_answer(family: str, modality: str) -> None:
    spec = spec_of(modality)
    served, rows = trained(params_of(family), spec), rows_of(spec, 2, 12)
    for step in (0, 11):
        other = rows.clone()
        other[0, step] = other[0, step].nan_to_num(0) + 1
        assert (served(other)[0] - served(rows)[0]).abs().max() > 1e-5, step
        torch.testing.assert_close(served(other)[1], served(rows)[1])


@ragged
def test_rows_in_which_nothing_is_left_have_an_answer(family: str, modality: str) -> None:
    spec = spec_of(modality)
    rows = rows_of(spec, 4)
    rows[0] = float("nan") if modality == "series" else 0
    for mode in (trained(params_of(family), spec), served_of(params_of(family), spec).train()):
        assert mode(rows).isfinite().all()


# --- against independent references


@pytest.mark.parametrize("family", LAYERS)
def test_recurrent_layers_are_those_of_torch_over_packed_sequences(family: str) -> None:
    spec = spec_of("series")
    net = trained(params_of(family), spec).net
    assert isinstance(net, Recurrent)
    reference = LAYERS[family](3, 8, 2, batch_first=True, bidirectional=True)
    ours = {}
    for number, layer in enumerate(net.layers):
        for way, suffix in ((layer.forwards, ""), (layer.backwards, "_reverse")):
            for name, weight in way.layer.named_parameters():
                ours[f"{name.removesuffix('0')}{number}{suffix}"] = weight
    assert reference.state_dict().keys() == ours.keys()
    reference.load_state_dict(ours)
    kept = []
    net.head.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    lengths = torch.tensor([7, 1, 12, 2, 5])
    x = torch.randn(5, 12, 3, generator=torch.Generator().manual_seed(3))
    real = (torch.arange(12) < lengths[:, None]).float().unsqueeze(2)
    net(torch.cat([x * real, real], dim=2))
    packed, ends = reference(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    ends = ends[0] if isinstance(ends, tuple) else ends
    states = pad_packed_sequence(packed, batch_first=True)[0]
    expected = torch.cat([ends[-2], ends[-1], states.sum(1) / lengths[:, None]], dim=1)
    torch.testing.assert_close(kept[0], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", LAYERS)
def test_the_loop_of_the_exported_graph_is_the_layer(family: str) -> None:
    torch.manual_seed(0)
    direction, x = Direction(family, 3, 8), torch.randn(4, 11, 3)
    with torch.no_grad():
        torch.testing.assert_close(direction.scanned(x), direction(x), atol=1e-6, rtol=1e-5)


def test_batch_statistics_are_those_of_the_real_steps() -> None:
    torch.manual_seed(0)
    norm, reference = StepNorm("batch", 4), nn.BatchNorm1d(4)
    x, lengths = 3 + 2 * torch.randn(6, 9, 4), torch.tensor([9, 1, 4, 7, 2, 3])
    real = torch.arange(9) < lengths[:, None]
    flat = torch.cat([row[:length] for row, length in zip(x, lengths, strict=True)])
    found = norm(x, real)
    torch.testing.assert_close(found[real], reference(flat))
    assert not found[~real].any()
    torch.testing.assert_close(norm.norm.running_var, flat.var(0) * 0.1 + 0.9)
    torch.testing.assert_close(norm.eval()(x, real)[real], reference.eval()(flat))


def test_pools_see_real_steps_alone() -> None:
    x = torch.tensor([[[-4.0], [-2.0], [7.0]], [[1.0], [2.0], [3.0]]])
    real = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_of(x, real).tolist() == [[-3.0], [0.0]]
    assert max_of(x, real).tolist() == [[-2.0], [0.0]]


def test_steps_of_series_and_texts() -> None:
    text = spec_of("text")
    steps = Steps(text, transform_of(text), 4, 0.0)
    features, real = steps(torch.tensor([[3, 0, 5, 0], [0, 0, 0, 0]]))
    assert real.tolist() == [[True, True, True, False], [False] * 4]
    assert features.any(2).tolist() == [[True, False, True, False], [False] * 4]
    series = spec_of("series")
    found, real = Steps(series, transform_of(series), 4, 0.0)(
        torch.tensor([[[1.0, 2.0, 3.0, 1.0], [9.0, 9.0, 9.0, 0.0]]])
    )
    assert found.tolist() == [[[1, 2, 3], [0, 0, 0]]]
    assert real.tolist() == [[True, False]]
