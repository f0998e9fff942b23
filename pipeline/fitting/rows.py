"""Random transforms of series, texts and rows of tables: whole canonical batches on their device.

What is missing stays missing, padding stays padding, and `torch.manual_seed` decides.
"""

from __future__ import annotations

import torch
from torch import nn

from models.fronts import own_moments
from models.together import drawn
from serving.inputs.spec import DataSpec, Transform


def where_over(series: torch.Tensor) -> torch.Tensor:
    """Steps (N,) of each of some series (N, T, C) up to the last that holds anything."""
    there = (~series.isnan()).any(dim=2)
    steps = torch.arange(1, series.shape[1] + 1, device=series.device)
    return (there * steps).amax(dim=1)


def _uniform(like: torch.Tensor) -> torch.Tensor:
    """Draws from 0 to 1 in the shape of a batch's rows."""
    return drawn(lambda count: torch.rand((count, *like.shape[1:]), device=like.device), len(like))


def _normal(like: torch.Tensor) -> torch.Tensor:
    """Draws from the normal distribution in the shape of a batch's rows."""
    return drawn(lambda count: torch.randn((count, *like.shape[1:]), device=like.device), len(like))


class OnSeries(nn.Module):
    """Window slicing (Le Guennec et al., 2016), scaling and jitter (Um et al., 2017), masking of a span of time.

    `noise` and `scale` are in units of each channel's training deviation and about its mean, or of each series' own
    where series are scaled by themselves; `crop` and `masking` are the largest shares of a series' steps that are cut
    off or left out.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, noise: float, scale: float, crop: float, masking: float, spec: DataSpec, transform: Transform
    ) -> None:
        super().__init__()
        assert spec.series is not None
        self.noise, self.scale, self.crop, self.masking = noise, scale, crop, masking
        self.least, self.alone = spec.series.min_steps, bool(transform.level_mean)
        self.register_buffer("mean", torch.tensor(transform.mean), persistent=False)
        self.register_buffer("std", torch.tensor(transform.std), persistent=False)

    @torch.no_grad()
    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Map (N, T, C) float32, NaN where missing or over, to the same shape."""
        self.to(series.device)
        if self.crop:
            series = self._sliced(series)
        mean, std = self._moments(series)
        if self.scale:
            factor = 1 + self.scale * (2 * _uniform(series[:, :1]) - 1)
            series = mean + (series - mean) * factor
        if self.noise:
            series = series + self.noise * std * _normal(series)
        return self._masked(series) if self.masking else series

    def _moments(self, series: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.alone or not (self.scale or self.noise):
            return self.mean, self.std
        peak, mean, std = own_moments(series)
        return peak * mean, peak * std

    def _sliced(self, series: torch.Tensor) -> torch.Tensor:
        lengths = where_over(series)
        steps = torch.arange(series.shape[1], device=series.device)
        share = 1 - self.crop * _uniform(series[:, 0, 0])
        kept = torch.minimum((share * lengths).ceil().long().clamp(min=self.least), lengths)
        start = (_uniform(series[:, 0, 0]) * (lengths - kept + 1)).long()
        at = (steps + start[:, None]).clamp(max=series.shape[1] - 1)
        window = series.gather(1, at[:, :, None].expand_as(series))
        return window.masked_fill((steps >= kept[:, None])[:, :, None], float("nan"))

    def _masked(self, series: torch.Tensor) -> torch.Tensor:
        lengths = where_over(series)
        steps = torch.arange(series.shape[1], device=series.device)
        span = (self.masking * _uniform(series[:, 0, 0]) * lengths).long()
        first = (_uniform(series[:, 0, 0]) * (lengths - span + 1)).long()
        inside = (steps >= first[:, None]) & (steps < (first + span)[:, None])
        return series.masked_fill(inside[:, :, None], float("nan"))


class OnTokens(nn.Module):
    """Leaves tokens out with a chance of `masking`, closing the gaps; a text keeps one token at least."""

    def __init__(self, masking: float) -> None:
        super().__init__()
        self.masking = masking

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (N, T) whole numbers, 0 where a text is over, to the same shape."""
        chance = _uniform(tokens).masked_fill(tokens == 0, 2.0)
        gone = chance < self.masking
        lone = (gone | (tokens == 0)).all(dim=1)
        gone &= ~(lone[:, None] & (chance == chance.masked_fill(tokens == 0, -1.0).amax(1, keepdim=True)))
        order = (gone | (tokens == 0)).to(torch.uint8).argsort(dim=1, stable=True)
        return tokens.masked_fill(gone, 0).gather(1, order)


class OnRows(nn.Module):
    """Noise on numbers, in training deviations, and cells left out: NaN for numbers, 0 for categories.

    Booleans get no noise.
    """

    deviation: torch.Tensor
    nothing: torch.Tensor

    def __init__(self, noise: float, masking: float, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        assert spec.table is not None
        self.noise, self.masking = noise, masking
        stds = zip(transform.std, spec.table.numbers, strict=True)
        deviation = [0.0 if field.kind == "boolean" else std for std, field in stds]
        codes = len(spec.table.categories)
        self.register_buffer("deviation", torch.tensor([*deviation, *([0.0] * codes)]), persistent=False)
        empty = [float("nan")] * len(deviation) + [0.0] * codes
        self.register_buffer("nothing", torch.tensor(empty), persistent=False)

    @torch.no_grad()
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Map (N, F + G) float32 to the same shape."""
        self.to(rows.device)
        if self.noise:
            rows = rows + self.noise * self.deviation * _normal(rows)
        if self.masking:
            rows = torch.where(_uniform(rows) < self.masking, self.nothing, rows)
        return rows


def build(
    noise: float, scale: float, crop: float, masking: float, spec: DataSpec, transform: Transform
) -> nn.Module:
    """What of these amounts suits the modality, as one module; nothing to do is the identity."""
    if spec.modality == "series" and (noise or scale or crop or masking):
        return OnSeries(noise, scale, crop, masking, spec, transform)
    if spec.modality == "text" and masking:
        return OnTokens(masking)
    if spec.modality == "table" and (noise or masking):
        return OnRows(noise, masking, spec, transform)
    return nn.Identity()
