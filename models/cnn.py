"""Residual convolutional network for small images; over series and texts it is that of `models/cnn1d.py`.

After He et al., "Deep Residual Learning for Image Recognition" (2015); differs in pooling by maximum
between blocks instead of striding inside them, and in a 1x1 convolution on every skip connection.
"""

from __future__ import annotations

import torch
from torch import nn

from models.cnn1d import StepCNN
from models.layers import PICTURE_NORMALISATIONS, activation
from models.params import Model
from models.recomputing import Block, Chain
from serving.inputs.spec import DataSpec, Transform


class ResidualBlock(Block):
    """Two 3x3 convolutions beside a 1x1 one: (N, `inputs`, H, W) to (N, `outputs`, H, W)."""

    def __init__(self, inputs: int, outputs: int, params: Model) -> None:
        super().__init__()
        norm, bias = PICTURE_NORMALISATIONS[params.normalisation], params.normalisation == "none"
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias),
            norm(outputs),
            activation(params.activation),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias),
            norm(outputs),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.act = activation(params.activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, `inputs`, H, W) to (N, `outputs`, H, W)."""
        y: torch.Tensor = self.act(self.path(x) + self.skip(x))
        return y


class ResidualCNN(nn.Module):
    """A striding stem, `depth` residual blocks, the average over the picture, and a linear layer.

    From the second on, a block halves the picture's sides and doubles the width, up to 16 times the first.
    """

    def __init__(self, channels: int, classes: int, params: Model) -> None:
        super().__init__()
        width = params.width
        norm, bias = PICTURE_NORMALISATIONS[params.normalisation], params.normalisation == "none"
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 5, stride=2, padding=2, bias=bias),
            norm(width),
            activation(params.activation),
        ]
        for block in range(params.depth):
            outputs = width if block == 0 else min(2 * width, 16 * params.width)
            if block:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            layers.append(ResidualBlock(width, outputs, params))
            width = outputs
        self.features = Chain(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = nn.Sequential(nn.Dropout(params.dropout), nn.Linear(width, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, C, H, W) to logits (N, K)."""
        logits: torch.Tensor = self.head(self.features(x).mean(dim=(2, 3)))
        return logits


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the network for images of `spec.input_shape`, (C, H, W), or over the steps of series and texts."""
    if spec.modality in ("series", "text"):
        return StepCNN(params, spec, transform)
    return ResidualCNN(spec.input_shape[0], len(spec.outputs), params)
