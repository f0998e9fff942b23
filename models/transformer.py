"""Transformer encoder over the steps of series, the tokens of texts, patches of images or columns of tables.

After Vaswani et al., "Attention Is All You Need" (2017), with normalisation before each layer; Dosovitskiy et
al., "An Image is Worth 16x16 Words" (2021) for patches and the class token that the answer is read from;
Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data" (2021) for columns; batch normalisation
over steps after Zerveas et al., "A Transformer-based Framework for Multivariate Time Series" (2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from models.attention import AttentionLayer
from models.params import Model
from models.recomputing import through
from models.sequences import StepNorm, Steps
from serving.inputs.spec import DataSpec, Transform

Tokens = tuple[torch.Tensor, torch.Tensor | None]
GRID = 8  # patches along the longer side of an image, about


class StepTokens(nn.Module):
    """A token a step of a series or token of a text, with sines of its place."""

    rates: torch.Tensor

    def __init__(self, params: Model, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        width = params.width
        self.width, self.steps = width, Steps(spec, transform, width, params.dropout)
        self.project = nn.Linear(self.steps.features, width)
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, x: torch.Tensor) -> Tokens:
        """Map (N, T, F + 1) or (N, T) to tokens (N, T, width) and their mask (N, T)."""
        features, real = self.steps(x)
        angles = torch.arange(x.shape[1], device=x.device).unsqueeze(1) * self.rates
        places = torch.cat([angles.sin(), angles.cos()], dim=1)[:, : self.width]
        return self.project(features) + places, real


class PatchTokens(nn.Module):
    """A token a square patch of an image, with a learnt vector for its place."""

    def __init__(self, params: Model, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        del transform
        channels, height, width = spec.input_shape
        side = max(1, round(max(height, width) / GRID))
        self.padding = (0, -width % side, 0, -height % side)
        self.patches = nn.Conv2d(channels, params.width, side, side)
        count = math.ceil(height / side) * math.ceil(width / side)
        self.places = nn.Parameter(0.02 * torch.randn(1, count, params.width))

    def forward(self, x: torch.Tensor) -> Tokens:
        """Map (N, C, H, W) to tokens (N, T, width), all real."""
        patches = self.patches(F.pad(x, self.padding)).flatten(2).transpose(1, 2)
        return patches + self.places, None


class ColumnTokens(nn.Module):
    """A token a column of a table: a number times a vector, or the embedding of a category, plus a bias."""

    starts: torch.Tensor

    def __init__(self, params: Model, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        del transform
        assert spec.table is not None
        self.numbers, width = len(spec.table.numbers), params.width
        sizes = [len(field.categories) + 1 for field in spec.table.categories]
        bound = width**-0.5
        self.weight, self.missing = (_uniform((self.numbers, width), bound) for _ in range(2))
        self.codes = _uniform((sum(sizes), width), bound)
        self.bias = _uniform((self.numbers + len(sizes), width), bound)
        starts = torch.tensor([sum(sizes[:at]) for at in range(len(sizes))], dtype=torch.int64)
        self.register_buffer("starts", starts, persistent=False)

    def forward(self, x: torch.Tensor) -> Tokens:
        """Map (N, 2 F + G) to tokens (N, F + G, width), all real."""
        values, missing, codes = x.tensor_split((self.numbers, 2 * self.numbers), dim=1)
        tokens = values.unsqueeze(2) * self.weight + missing.unsqueeze(2) * self.missing
        if self.starts.numel():
            tokens = torch.cat([tokens, F.embedding(codes.long() + self.starts, self.codes)], dim=1)
        return tokens + self.bias, None


def _uniform(shape: tuple[int, ...], bound: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


TOKENS: dict[str, Callable[[Model, DataSpec, Transform], nn.Module]] = {
    "image": PatchTokens, "table": ColumnTokens, "series": StepTokens, "text": StepTokens,
}  # fmt: skip


class Transformer(nn.Module):
    """Tokens with a class token before them, `depth` layers of attention, and a linear layer on the class token."""

    def __init__(self, params: Model, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        if params.width % params.heads:
            raise ValueError(
                f"model.width is {params.width} and model.heads is {params.heads}; "
                "expected a width that the heads divide"
            )
        self.tokens = TOKENS[spec.modality](params, spec, transform)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, params.width))
        self.layers = nn.ModuleList(AttentionLayer(params) for _ in range(params.depth))
        self.norm = StepNorm(params.normalisation, params.width)
        self.head = nn.Sequential(nn.Dropout(params.dropout), nn.Linear(params.width, len(spec.outputs)))

    def _begin(self, x: torch.Tensor) -> Tokens:
        """What a front gives as tokens (N, 1 + T, width), the class token first, and their mask (N, 1 + T)."""
        tokens, real = self.tokens(x)
        if real is not None:
            real = F.pad(real, (1, 0), value=True)
        return torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1), real

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map what a front gives, N samples, to (N, outputs)."""
        tokens, real = self._begin(x)
        for layer in self.layers:
            tokens = through(layer, tokens, real)
        first = None if real is None else real[:, :1]
        answer: torch.Tensor = self.head(self.norm(tokens[:, :1], first).squeeze(1))
        return answer

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, depth, heads, 1 + T, 1 + T) of what a front gives: how much each token attends to each.

        Row 0 is the class token, which the answer is read from; rows sum to 1, padding gets 0.
        """
        tokens, real = self._begin(x)
        maps = []
        for layer in self.layers:
            assert isinstance(layer, AttentionLayer)
            maps.append(layer.weights(tokens, real))
            tokens = layer(tokens, real)
        return torch.stack(maps, dim=1)


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the network for any modality."""
    return Transformer(params, spec, transform)
