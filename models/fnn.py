"""Feed-forward network: from logistic regression (`depth` 0) through the perceptron to deep.

After Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors" (1986); differs
in batch normalisation and dropout between layers.
"""

from __future__ import annotations

import math

from torch import nn

from models.layers import activation
from models.params import Model
from serving.inputs.spec import DataSpec


def build(params: Model, spec: DataSpec) -> nn.Module:
    """Build the network: (N, *input_shape) to logits (N, K)."""
    size = math.prod(spec.input_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(params.depth):
        layers += [
            nn.Linear(size, params.width, bias=False),
            nn.BatchNorm1d(params.width),
            activation(params.activation),
            nn.Dropout(params.dropout),
        ]
        size = params.width
    return nn.Sequential(*layers, nn.Linear(size, len(spec.classes)))
