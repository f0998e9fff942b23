"""The fitted transforms as parts of the graph: raw canonical input to what every network of a modality takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from serving.inputs.series import FLAT, LEAST
from serving.inputs.spec import DataSpec, Transform

LIMIT = 5.0  # standard deviations by which a series' level counts at most


class ImageFront(nn.Module):
    """`(x - mean) / std` by channel: (N, C, H, W) on the 0..255 scale to float32 of the same shape."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        del spec
        self.register_buffer("mean", torch.tensor(transform.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(transform.std).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map to zero mean and unit deviation."""
        return (x.float() - self.mean) / self.std


class TableFront(nn.Module):
    """Rows (N, F + G) to (N, 2 F + G): scaled numbers (0 where missing), what is missing (1), category codes.

    A code that training never saw becomes 0, as a category that is not known.
    """

    mean: torch.Tensor
    std: torch.Tensor
    known: torch.Tensor
    starts: torch.Tensor

    def __init__(self, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        del spec
        self.numbers = len(transform.mean)
        self.register_buffer("mean", torch.tensor(transform.mean))
        self.register_buffer("std", torch.tensor(transform.std))
        flat = [seen for codes in transform.known for seen in codes]
        sizes = [len(codes) for codes in transform.known]
        starts = [sum(sizes[:at]) for at in range(len(sizes))]
        self.register_buffer("known", torch.tensor(flat, dtype=torch.float32))
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the numbers and mark what is missing."""
        numbers = x[:, : self.numbers]
        missing = torch.isnan(numbers)
        scaled = torch.where(missing, torch.zeros_like(numbers), (numbers - self.mean) / self.std)
        parts = [scaled.clamp(-10, 10), missing.float()]
        if self.starts.numel():
            codes = x[:, self.numbers :]
            parts.append(codes * self.known[codes.long() + self.starts])
        return torch.cat(parts, dim=1)


class SeriesFront(nn.Module):
    """Series (N, T, C), NaN where missing or over, to (N, T, F + 1): F features, and 1 for real steps.

    First the C channels, scaled by the moments of training, or each series by its own. Then, in the latter case, 2 C
    that are constant along a series and keep its level: the logarithm of its deviation, and its mean in deviations
    (by `asinh`, so logarithmic far out), both standardised over the series of training. Last, 1 where a value is
    missing, for each channel that had gaps in training.
    """

    mean: torch.Tensor
    std: torch.Tensor
    level_mean: torch.Tensor
    level_std: torch.Tensor
    gaps: torch.Tensor

    def __init__(self, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        del spec
        self.alone = bool(transform.level_mean)
        self.register_buffer("mean", torch.tensor(transform.mean))
        self.register_buffer("std", torch.tensor(transform.std))
        if self.alone:
            self.register_buffer("level_mean", torch.tensor(transform.level_mean))
            self.register_buffer("level_std", torch.tensor(transform.level_std))
        if transform.gaps:
            self.register_buffer("gaps", torch.tensor(transform.gaps, dtype=torch.int64))
        self.counts_gaps = bool(transform.gaps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale, put 0 for what is missing, and mark the steps up to the last that holds anything."""
        missing = torch.isnan(x)
        there = (~missing).any(dim=2).to(x.dtype)
        real = (
            there.flip(1).cumsum(1).flip(1).clamp(max=1)
        )  # 1 where this step or a later one holds something
        real = real.unsqueeze(2)
        scaled, *levels = self._alone(x, missing) if self.alone else [(x - self.mean) / self.std]
        parts = [torch.where(missing, torch.zeros_like(x), scaled), *(level * real for level in levels)]
        if self.counts_gaps:
            parts.append(missing.to(x.dtype).index_select(2, self.gaps) * real)
        return torch.cat([*parts, real], dim=2)

    def _alone(self, x: torch.Tensor, missing: torch.Tensor) -> list[torch.Tensor]:
        """Each series scaled by itself (N, T, C), and its level (N, 1, 2 C)."""
        peak, mean, std = own_moments(x)
        level = torch.cat([(peak * std.clamp(min=FLAT)).log(), (mean / std.clamp(min=FLAT)).asinh()], dim=2)
        level = ((level - self.level_mean) / self.level_std).clamp(-LIMIT, LIMIT)
        holds = (~missing).any(dim=1, keepdim=True).repeat(1, 1, 2)
        level = torch.where(holds, level, torch.zeros_like(level))
        steady = torch.where(std > FLAT, std, torch.ones_like(std))
        return [(x / peak - mean) / steady, level]


def own_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The largest size of each channel of series (N, T, C), and mean and deviation in its unit, each (N, 1, C).

    What is NaN is left out; a channel that holds nothing has mean and deviation 0. Divided by its largest size no
    float32 is too large or too small to be squared.
    """
    there = ~torch.isnan(x)
    nothing = torch.zeros_like(x)
    count = there.to(x.dtype).sum(1, keepdim=True).clamp(min=1)
    peak = torch.where(there, x.abs(), nothing).amax(1, keepdim=True).clamp(min=LEAST)
    mean = torch.where(there, x / peak, nothing).sum(1, keepdim=True) / count
    off = torch.where(there, x / peak - mean, nothing)
    return peak, mean, (off.square().sum(1, keepdim=True) / count).sqrt()


def series_features(spec: DataSpec, transform: Transform) -> int:
    """Features of a step that the front of series gives, without the mark of real steps."""
    return spec.input_shape[0] + len(transform.level_mean) + len(transform.gaps)


class TextFront(nn.Module):
    """Tokens (N, T) int32, 0 where a text is over, as int64."""

    def __init__(self, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        del spec, transform

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The tokens as indices."""
        return x.long()


Front = Callable[[DataSpec, Transform], nn.Module]
FRONTS: dict[str, Front] = {
    "image": ImageFront, "table": TableFront, "series": SeriesFront, "text": TextFront,
}  # fmt: skip
