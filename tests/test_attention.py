"""Attention: that of PyTorch, maps that can be drawn, and nothing for padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.attention import Attention
from models.transformer import Transformer
from tests.samples import PAIRS, params_of, rows_of, spec_of, trained

pytestmark = pytest.mark.usefixtures("one_thread")
MODALITIES = [modality for family, modality in PAIRS if family == "transformer"]


@pytest.mark.parametrize("lengths", [None, (6, 1, 3)], ids=["whole", "padded"])
def test_attention_is_that_of_torch(lengths: tuple[int, ...] | None) -> None:
    torch.manual_seed(0)
    ours, reference = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.randn(8), ours.value.bias]))
    reference.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(3, 6, 8)
    real = None if lengths is None else torch.arange(6) < torch.tensor(lengths)[:, None]
    hidden = None if real is None else ~real
    expected, weights = reference(x, x, x, key_padding_mask=hidden, average_attn_weights=False)
    torch.testing.assert_close(ours(x, real), expected)
    torch.testing.assert_close(ours.weights(x, real), weights)


@pytest.mark.parametrize("modality", MODALITIES)
def test_maps_can_be_drawn(modality: str) -> None:
    spec = spec_of(modality)
    served = trained(params_of("transformer", depth=3), spec)
    assert isinstance(served.net, Transformer)
    rows = rows_of(spec, 7)
    maps = served.net.attention(served.front(rows))
    # 33 and 17 pixels in squares of 4; columns; steps of the longest; each with the class token
    tokens = 1 + {"image": 9 * 5, "table": 5, "series": 9, "text": 9}[modality]
    assert maps.shape == (7, 3, 2, tokens, tokens)
    assert maps.min() >= 0
    torch.testing.assert_close(maps.sum(4), torch.ones(7, 3, 2, tokens))
    assert maps.std() > 1e-3
    if modality in ("series", "text"):
        for at, found in enumerate(maps):
            real = 1 + 9 - at % 9
            assert not found[..., real:].any()
            assert found[..., :real].all()
    torch.testing.assert_close(maps, served.net.attention(served.front(rows)))


def test_the_place_of_a_token_matters() -> None:
    spec = spec_of("text")
    served = trained(params_of("transformer"), spec)
    rows = torch.tensor([[3, 7, 9, 5], [5, 9, 7, 3]], dtype=torch.int32)
    first, second = served(rows)
    assert (first - second).abs().max() > 1e-4


def test_what_is_missing_in_a_table_is_seen() -> None:
    spec = spec_of("table")
    served = trained(params_of("transformer"), spec)
    rows = torch.tensor([[1.0, 2.0, 3.0, 1.0, 2.0]] * 2)  # the means: 0 once scaled, as what is missing is
    rows[1, 0] = float("nan")
    first, second = served(rows)
    assert (first - second).abs().max() > 1e-4
