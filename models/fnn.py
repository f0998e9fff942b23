"""Feed-forward network: from logistic regression (`depth` 0) through the perceptron to deep.

After Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors" (1986); differs
in normalisation and dropout between layers. Tables come through embeddings, texts as a bag of their tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from models.layers import hidden
from models.params import Model
from models.recomputing import Chain
from models.sequences import max_of, mean_of
from serving.inputs.spec import DataSpec, TableInput, Transform

PAIRS = 2**14  # rows of the table of pairs of tokens
FACTORS = (1_000_003, 8_191)  # of a pair's first and second token in its hash
SPREAD = 0.1  # standard deviation that embeddings of texts begin with


class Embedded(nn.Module):
    """Rows (N, 2 F + G) of a table to features: the numbers as they are, an embedding for each category.

    After Guo and Berkhahn, "Entity Embeddings of Categorical Variables" (2016), with fewer dimensions.
    """

    def __init__(self, table: TableInput) -> None:
        super().__init__()
        self.numbers = 2 * len(table.numbers)
        sizes = [len(field.categories) + 1 for field in table.categories]
        dims = [min(50, round(1.6 * size**0.56)) for size in sizes]
        self.tables = nn.ModuleList(nn.Embedding(size, dim) for size, dim in zip(sizes, dims, strict=True))
        self.features = self.numbers + sum(dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, 2 F + G) to (N, features)."""
        codes = x[:, self.numbers :].long()
        parts = [table(codes[:, at]) for at, table in enumerate(self.tables)]
        return torch.cat([x[:, : self.numbers], *parts], dim=1)


class Bag(nn.Module):
    """Tokens (N, T), 0 where a text is over, to (N, 2 `width`): the mean of embeddings and their maximum.

    After Joulin et al., "Bag of Tricks for Efficient Text Classification" (2017), whose pairs of neighbours share
    rows of one table by a hash and add to the mean, and Shen et al., "Baseline Needs More Love" (2018), for the
    maximum over tokens.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(max(tokens, 2), width, padding_idx=0)
        self.pairs = nn.Embedding(PAIRS + 1, width, padding_idx=0)
        for table in (self.tokens, self.pairs):
            with torch.no_grad():
                table.weight[1:].normal_(0, SPREAD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, T) to (N, 2 width); where no token is left, 0."""
        after = F.pad(x, (0, 1))[:, 1:]
        joined = torch.where((x > 0) & (after > 0), (x * FACTORS[0] + after * FACTORS[1]) % PAIRS + 1, 0)
        embedded = self.tokens(x)
        mean = mean_of(embedded, x > 0) + mean_of(self.pairs(joined), joined > 0)
        return torch.cat([mean, max_of(embedded, x > 0)], dim=1)


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the network: images (N, C, H, W), rows (N, 2 F + G) or tokens (N, T) to (N, outputs)."""
    if spec.table is not None:
        embedded = Embedded(spec.table)
        layers: list[nn.Module] = [embedded]
        size = embedded.features
    elif spec.modality == "text":
        layers, size = [Bag(transform.tokens, params.width), nn.Dropout(params.dropout)], 2 * params.width
    else:
        layers, size = [nn.Flatten()], math.prod(spec.input_shape)
    deep, size = hidden(size, params)
    return Chain(*layers, *deep, nn.Linear(size, len(spec.outputs)))
