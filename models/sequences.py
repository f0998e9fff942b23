"""What networks over series and texts share: steps with their mask, and what is pooled over the real ones."""

from __future__ import annotations

import torch
from torch import nn

from models.fronts import series_features
from models.layers import normalisation
from serving.inputs.spec import DataSpec, Transform


class Steps(nn.Module):
    """What a front gives to features of each step (N, T, `features`) and which steps are real (N, T), bool.

    Series (N, T, F + 1) keep the F features that their front gives, texts (N, T) get an embedding of `width` a token.
    """

    def __init__(self, spec: DataSpec, transform: Transform, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding: nn.Module | None = None
        self.features = series_features(spec, transform) if spec.modality == "series" else width
        if spec.modality == "text":
            table = nn.Embedding(max(transform.tokens, 2), width, padding_idx=0)
            self.embedding = nn.Sequential(table, nn.Dropout(dropout))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (N, T, F + 1) or (N, T) to features and mask; features are 0 where the mask is."""
        if self.embedding is None:
            real = x[..., -1] > 0
            return x[..., :-1] * x[..., -1:], real
        real = (x != 0).flip(1).cumsum(1).flip(1) > 0  # up to the last token; one left out within is a step
        return self.embedding(x) * real.unsqueeze(2), real


class StepNorm(nn.Module):
    """Normalisation of (N, T, D) over features (`layer`) or over the real steps of a batch (`batch`).

    Padding counts in no mean: how far a batch is padded changes nothing, in training as little as after it.
    """

    def __init__(self, kind: str, features: int) -> None:
        super().__init__()
        self.norm = normalisation(kind, features)
        self.over_batch = kind == "batch"

    def forward(self, x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Map (N, T, D) with its mask (N, T), None where all is real, to the same shape, 0 for what is not."""
        if self.over_batch and self.training and real is not None:
            rows = self.norm(x[real])
            return rows.new_zeros(x.shape).masked_scatter(real.unsqueeze(2), rows)
        found: torch.Tensor = self.norm(x.flatten(0, 1)).view(x.shape) if self.over_batch else self.norm(x)
        return found if real is None else found * real.unsqueeze(2)


def mean_of(x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The mean over the real steps: (N, T, D) with mask (N, T) to (N, D), 0 where no step is real."""
    mask = real.unsqueeze(2).to(x.dtype)
    return (x * mask).sum(1) / mask.sum(1).clamp(min=1)


def max_of(x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The maximum over the real steps: (N, T, D) with mask (N, T) to (N, D), 0 where no step is real."""
    lowest = torch.finfo(x.dtype).min
    found = x.masked_fill(~real.unsqueeze(2), lowest).amax(1)
    return found * real.any(1, keepdim=True)
