"""Residual convolutional network over series and texts.

After He et al., "Deep Residual Learning for Image Recognition" (2015), and Wang, Yan and Oates, "Time Series
Classification from Scratch with Deep Neural Networks" (2016); padding is masked out of every layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from models.layers import activation
from models.params import Model
from models.recomputing import Block, through
from models.sequences import StepNorm, Steps, max_of, mean_of
from serving.inputs.spec import DataSpec, Transform

HALVINGS = 4  # of the steps, at most


class Convolution(nn.Module):
    """A convolution over steps and a normalisation; padding goes in and comes out as 0."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=norm == "none")
        self.norm = StepNorm(norm, outputs)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Map (N, T, `inputs`) to (N, ceil(T / stride), `outputs`), of which `real` is the mask."""
        return self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2), real)


def strided(real: torch.Tensor, stride: int, like: torch.Tensor) -> torch.Tensor:
    """Every `stride`-th step of a mask (N, T), of which `like` gives dtype and device.

    Counted by the rule of convolutions, or export sees two lengths that may differ.
    """
    if stride == 1:
        return real
    mask = real.unsqueeze(1).to(like.dtype)
    return F.conv1d(mask, like.new_ones(1, 1, 1), stride=stride).squeeze(1) > 0


class StepBlock(Block):
    """Two convolutions beside a 1-wide one, the first of `stride`."""

    def __init__(self, inputs: int, outputs: int, stride: int, params: Model) -> None:
        super().__init__()
        self.stride = stride
        self.first = Convolution(inputs, outputs, params.kernel, stride, params.normalisation)
        self.second = Convolution(outputs, outputs, params.kernel, 1, params.normalisation)
        self.skip = nn.Conv1d(inputs, outputs, 1, stride, bias=False)
        self.act = activation(params.activation)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (N, T, `inputs`) and its mask (N, T) to (N, ceil(T / stride), `outputs`) and its mask."""
        real = strided(real, self.stride, x)
        there = real.unsqueeze(2)
        inner = self.act(self.first(x, real)) * there
        skipped = self.skip(x.transpose(1, 2)).transpose(1, 2)
        return self.act(self.second(inner, real) + skipped) * there, real


class StepCNN(nn.Module):
    """A stem of `stride`, `depth` residual blocks, mean and maximum over the real steps, and a linear layer.

    From the second to the fifth, a block halves the steps and doubles the width.
    """

    def __init__(self, params: Model, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        if params.kernel % 2 == 0:
            raise ValueError(f"model.kernel is {params.kernel}; a convolution over steps needs an odd one")
        width = params.width
        self.steps = Steps(spec, transform, width, params.dropout)
        self.stride = params.stride
        self.stem = Convolution(
            self.steps.features, width, params.kernel, params.stride, params.normalisation
        )
        self.act = activation(params.activation)
        blocks = []
        for block in range(params.depth):
            stride = 2 if 1 <= block <= HALVINGS else 1
            blocks.append(StepBlock(width, stride * width, stride, params))
            width *= stride
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Sequential(nn.Dropout(params.dropout), nn.Linear(2 * width, len(spec.outputs)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map series (N, T, F + 1) or tokens (N, T) to (N, outputs)."""
        features, real = self.steps(x)
        if torch.compiler.is_exporting():  # a graph of any length must have two steps left in the last block
            more = self.stride * 2**HALVINGS
            features, real = F.pad(features, (0, 0, 0, more)), F.pad(real, (0, more))
        inputs, real = features, strided(real, self.stride, features)
        features = self.act(self.stem(inputs, real)) * real.unsqueeze(2)
        for block in self.blocks:
            features, real = through(block, features, real)
        pooled = torch.cat([mean_of(features, real), max_of(features, real)], dim=1)
        answer: torch.Tensor = self.head(pooled)
        return answer
