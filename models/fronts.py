"""The fitted transforms as parts of the graph: raw canonical input to what every network of a modality takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from serving.inputs.spec import DataSpec, Transform


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
    """Series (N, T, C), NaN where missing or over, to (N, T, C + 1): scaled channels, and 1 for real steps."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        del spec
        self.register_buffer("mean", torch.tensor(transform.mean))
        self.register_buffer("std", torch.tensor(transform.std))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale, put 0 for what is missing, and mark the steps up to the last that holds anything."""
        missing = torch.isnan(x)
        there = (~missing).any(dim=2).to(x.dtype)
        real = (
            there.flip(1).cumsum(1).flip(1).clamp(max=1)
        )  # 1 where this step or a later one holds something
        scaled = torch.where(missing, torch.zeros_like(x), (x - self.mean) / self.std)
        return torch.cat([scaled, real.unsqueeze(2)], dim=2)


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
