"""Random transforms of series, texts and tables: what is missing or over stays so, and the seed decides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.fitting.augmentation import Augmentation, build
from pipeline.fitting.rows import where_over
from serving.inputs.spec import Column, DataSpec, SeriesInput, TextInput, Transform
from tests.small import table_spec

NONE = {name: 0.0 for name in Augmentation.model_fields if name != "strength"}
SERIES = DataSpec(
    modality="series", task="classification", source="s", classes=("a", "b"),
    columns=(Column(name="series", role="input", dtype="<f4", shape=(2,), ragged=True),),
    series=SeriesInput(channels=("x", "y"), min_steps=3),
)  # fmt: skip
SCALES = Transform(mean=(5.0, -100.0), std=(1.0, 20.0))
TEXT = DataSpec(
    modality="text", task="classification", source="t", classes=("a", "b"),
    columns=(Column(name="tokens", role="input", dtype="<i4", ragged=True),), text=TextInput(),
)  # fmt: skip
TABLE = table_spec(["number", "boolean", "category"])
MOMENTS = Transform(mean=(50.0, 0.5), std=(10.0, 0.5), known=((True,) * 4,))


def module(
    spec: DataSpec, transform: Transform = SCALES, strength: float = 1.0, **amounts: float
) -> nn.Module:
    return build(Augmentation(**{**NONE, **amounts}, strength=strength), spec, transform)


def series(count: int = 400, steps: int = 30) -> torch.Tensor:
    """Series (N, T, 2) of lengths 10, 20 and 30 about the channels' means, with gaps in y."""
    draw = torch.Generator().manual_seed(0)
    found = torch.tensor(SCALES.mean) + torch.tensor(SCALES.std) * torch.randn(
        count, steps, 2, generator=draw
    )
    for at in range(count):
        found[at, 10 * (1 + at % 3) :] = float("nan")
    found[:, 4, 1] = float("nan")
    return found


def tokens(count: int = 300, size: int = 40) -> torch.Tensor:
    """Tokens (N, T), 10, 20 or 40 of them, all distinct in a text."""
    found = torch.arange(2, size + 2).repeat(count, 1)
    for at in range(count):
        found[at, (10, 20, 40)[at % 3] :] = 0
    return found


def rows(count: int = 2000) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    found = torch.stack(
        [
            50 + 10 * torch.randn(count, generator=draw),
            torch.arange(count) % 2.0,
            1 + torch.arange(count) % 3.0,
        ],
        dim=1,
    )
    found[::4, 0] = float("nan")
    return found


CASES = {
    "noise": (SERIES, SCALES, series, {"noise": 0.3}), "scale": (SERIES, SCALES, series, {"scale": 0.3}),
    "crop": (SERIES, SCALES, series, {"crop": 0.5}), "masking": (SERIES, SCALES, series, {"masking": 0.5}),
    "tokens": (TEXT, SCALES, tokens, {"masking": 0.3}), "cells": (TABLE, MOMENTS, rows, {"masking": 0.3}),
    "numbers": (TABLE, MOMENTS, rows, {"noise": 0.3}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_seed_decides_and_the_input_is_left_alone(name: str) -> None:
    spec, transform, make, amounts = CASES[name]
    given, found = make(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(module(spec, transform, **amounts)(given))
    torch.testing.assert_close(given, make(), equal_nan=True)
    assert found[0].shape == given.shape
    assert found[0].dtype == given.dtype
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(found[0].nan_to_num(), found[2].nan_to_num())
    assert not torch.equal(found[0].nan_to_num(), given.nan_to_num())


@pytest.mark.parametrize("spec", [SERIES, TEXT, TABLE])
def test_nothing_asked_is_nothing_done(spec: DataSpec) -> None:
    assert isinstance(module(spec), nn.Identity)
    assert isinstance(build(Augmentation(strength=0, noise=1, masking=0.5), spec, SCALES), nn.Identity)


# --- series


def test_jitter_is_in_deviations_of_each_channel() -> None:
    given = series()
    change = module(SERIES, noise=0.3)(given) - given
    assert torch.equal(change.isnan(), given.isnan()), "gaps and ends stay where they were"
    for channel, std in enumerate(SCALES.std):
        assert float(change[..., channel][~change[..., channel].isnan()].std()) == pytest.approx(
            0.3 * std, rel=0.05
        )


def test_scaling_is_about_the_mean_and_alike_along_a_series() -> None:
    given, mean = series(), torch.tensor(SCALES.mean)
    factors = (module(SERIES, scale=0.2)(given) - mean) / (given - mean)
    low, high = factors.nan_to_num(9).amin(1), factors.nan_to_num(-9).amax(1)
    torch.testing.assert_close(low, high, rtol=1e-2, atol=1e-3)
    assert 0.8 <= float(low.min()) + 1e-3 < 0.83
    assert 1.17 < float(high.max()) - 1e-3 <= 1.2


def test_a_window_is_a_stretch_of_the_series_from_its_start_on() -> None:
    given = series(300)
    found = module(SERIES, crop=0.6)(given)
    before, after = where_over(given), where_over(found)
    shares = after / before
    assert 0.4 <= float(shares.min()) < 0.5
    assert float(shares.max()) > 0.95
    for old, new, size, long in zip(given, found, after.tolist(), before.tolist(), strict=True):
        starts = range(long - size + 1)
        assert any(torch.equal(old[s : s + size].nan_to_num(), new[:size].nan_to_num()) for s in starts)
        assert new[size:].isnan().all()


def test_a_window_keeps_the_steps_that_a_series_must_have() -> None:
    found = module(SERIES, crop=0.9, strength=3)(series()[:, :4, :1].repeat(1, 1, 2))
    assert int(where_over(found).min()) == 3


def test_masking_leaves_out_one_span() -> None:
    given = torch.randn(500, 20, 2)
    gone = module(SERIES, masking=0.5)(given).isnan()
    assert torch.equal(gone[..., 0], gone[..., 1]), "a step is left out of every channel"
    count = gone[..., 0].sum(1)
    assert int(count.max()) in (9, 10)
    assert float(count.float().mean()) == pytest.approx(4.5, abs=0.6)
    begins = (gone[:, 1:, 0] & ~gone[:, :-1, 0]).sum(1) + gone[:, 0, 0]
    assert torch.equal(begins, (count > 0).long()), "one span"


def test_the_longest_mask_leaves_something() -> None:
    found = module(SERIES, masking=0.9, strength=3)(series())
    assert (where_over(found) > 0).all()


# --- texts


def test_tokens_are_left_out_in_order_and_padded_at_the_end() -> None:
    given = tokens()
    found = module(TEXT, masking=0.3)(given)
    left = [row[row > 0] for row in found]
    assert all((row.diff() > 0).all() for row in left), "in their order"
    for old, new, kept in zip(given, found, left, strict=True):
        assert torch.equal(new[: len(kept)], kept), "no gaps"
        assert set(kept.tolist()) <= set(old[old > 0].tolist())
    share = sum(map(len, left)) / int((given > 0).sum())
    assert share == pytest.approx(0.7, abs=0.02)


def test_a_text_keeps_one_token_and_an_empty_one_none() -> None:
    given = torch.tensor([[1, 0, 0], [5, 6, 0], [0, 0, 0]]).repeat(200, 1)
    found = module(TEXT, masking=0.9, strength=3)(given)
    counts = (found > 0).sum(1).view(200, 3)
    assert (counts[:, 0] == 1).all()
    assert int(counts[:, 1].min()) == 1
    assert int(counts[:, 1].max()) == 2
    assert (counts[:, 2] == 0).all()
    assert set(found.view(200, 3, 3)[:, 1, 0].tolist()) == {5, 6}


# --- tables


def test_noise_moves_numbers_alone() -> None:
    given = rows()
    change = module(TABLE, MOMENTS, noise=0.3)(given) - given
    assert torch.equal(change.isnan(), given.isnan())
    assert float(change[:, 0][~change[:, 0].isnan()].std()) == pytest.approx(3.0, rel=0.1)
    assert not change[:, 1:].any(), "booleans and codes are left alone"


def test_masked_cells_are_missing_or_not_known() -> None:
    given = rows()
    found = module(TABLE, MOMENTS, masking=0.25)(given)
    assert float(found[:, 1].isnan().float().mean()) == pytest.approx(0.25, abs=0.04)
    assert float((found[:, 2] == 0).float().mean()) == pytest.approx(0.25, abs=0.04)
    assert not found[:, 2].isnan().any()
    kept = ~found.isnan() & (found != 0)
    assert torch.equal(found[kept], given[kept])
    assert found[::4, 0].isnan().all(), "what was missing stays so"
