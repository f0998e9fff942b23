"""Multi-head self-attention over tokens of which some are padding, and the layer around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from models.layers import activation
from models.params import Model
from models.recomputing import Block
from models.sequences import StepNorm


class Attention(nn.Module):
    """Self-attention with `heads` heads: (N, T, `width`) to the same shape; padding is attended to by none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)  # which would add the same to every score of a query

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (N, heads, T, width / heads)

    def forward(self, x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Map (N, T, width) with the mask (N, T) of real tokens, or None where all are, to (N, T, width)."""
        query, key, value = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        mask = None if real is None else real[:, None, None, :]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed: torch.Tensor = self.out(found.transpose(1, 2).flatten(2))
        return mixed

    def weights(self, x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """How much each token attends to each, (N, heads, T, T); rows sum to 1, padding has 0."""
        query, key = self._split(self.query(x)), self._split(self.key(x))
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        if real is not None:
            scores = scores.masked_fill(~real[:, None, None, :], float("-inf"))
        return scores.softmax(dim=3)


class AttentionLayer(Block):
    """Attention and two linear layers, each normalised before and added to what came in (Xiong et al., 2020)."""

    def __init__(self, params: Model) -> None:
        super().__init__()
        width, norm = params.width, params.normalisation
        self.first, self.second = StepNorm(norm, width), StepNorm(norm, width)
        self.attention = Attention(width, params.heads)
        self.inner = nn.Sequential(
            nn.Linear(width, 2 * width),
            activation(params.activation),
            nn.Dropout(params.dropout),
            nn.Linear(2 * width, width),
        )
        self.dropout = nn.Dropout(params.dropout)

    def forward(self, x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Map (N, T, width) with its mask (N, T) to the same shape."""
        x = x + self.dropout(self.attention(self.first(x, real), real))
        return x + self.dropout(self.inner(self.second(x, real)))

    def weights(self, x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """The attention of this layer over what `forward` is given, (N, heads, T, T)."""
        return self.attention.weights(self.first(x, real), real)
