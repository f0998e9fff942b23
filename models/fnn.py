"""Feed-forward network: from logistic regression (`depth` 0) through the perceptron to deep.

After Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors" (1986); differs
in normalisation and dropout between layers.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from models.layers import activation, normalisation
from models.params import Model
from serving.inputs.spec import DataSpec, TableInput, Transform


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


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the network: images (N, C, H, W) or rows (N, 2 F + G) to (N, outputs)."""
    del transform
    if spec.table is not None:
        embedded = Embedded(spec.table)
        layers: list[nn.Module] = [embedded]
        size = embedded.features
    else:
        layers, size = [nn.Flatten()], math.prod(spec.input_shape)
    for _ in range(params.depth):
        layers += [
            nn.Linear(size, params.width, bias=params.normalisation == "none"),
            normalisation(params.normalisation, params.width),
            activation(params.activation),
            nn.Dropout(params.dropout),
        ]
        size = params.width
    return nn.Sequential(*layers, nn.Linear(size, len(spec.outputs)))
