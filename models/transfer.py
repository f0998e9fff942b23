"""Transfer learning: a network that others trained on much data, under a head that learns ours from few.

After Yosinski et al., "How transferable are features in deep neural networks?" (2014). The trunk is frozen, or its
last blocks learn too, one after the other and more slowly the earlier they are, after Howard and Ruder, "Universal
Language Model Fine-tuning for Text Classification" (2018). It always computes as it serves: its batch normalisation
keeps the statistics that it came with, and nothing in it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import nn

from models import efficientnet, minilm
from models.layers import hidden
from models.params import Model
from models.weights import Weights
from serving.inputs.spec import DataSpec, Transform


class Trunk(NamedTuple):
    """A pre-trained network of a modality: its builder, its weights, how they are read, and what it is given.

    The network has `features`, an int, and `blocks()`, which together hold all its parameters, first to last;
    it maps what `front` gives to (N, features).
    """

    build: Callable[[DataSpec], nn.Module]
    weights: Weights
    state: Callable[[Path], dict[str, torch.Tensor]]
    front: Callable[[DataSpec, Transform], nn.Module]


TRUNKS: dict[str, Trunk] = {
    "image": Trunk(efficientnet.EfficientNet, efficientnet.WEIGHTS, efficientnet.state, efficientnet.Front),
    "text": Trunk(minilm.MiniLM, minilm.WEIGHTS, minilm.state, minilm.Front),
}


class Transfer(nn.Module):
    """A trunk, dropout, and a head of `depth` hidden layers; as built, no weight is frozen or pre-trained."""

    def __init__(self, params: Model, spec: DataSpec) -> None:
        super().__init__()
        self.modality = spec.modality
        self.trunk = TRUNKS[spec.modality].build(spec)
        deep, size = hidden(int(self.trunk.features), params)  # type: ignore[arg-type]
        self.head = nn.Sequential(nn.Dropout(params.dropout), *deep, nn.Linear(size, len(spec.outputs)))

    def blocks(self) -> list[nn.Module]:
        """The blocks of the trunk, first to last."""
        found: list[nn.Module] = self.trunk.blocks()  # type: ignore[operator]
        return found

    @property
    def weights(self) -> Weights:
        """What the trunk begins with."""
        return TRUNKS[self.modality].weights

    def pretrain(self, path: Path) -> None:
        """Put the pre-trained weights of a file, whose content was checked, into the trunk."""
        self.trunk.load_state_dict(TRUNKS[self.modality].state(path))

    def open(self, count: int) -> None:
        """Let the last `count` blocks learn, and freeze those before.

        Raises:
            ValueError: there are fewer.
        """
        blocks = self.blocks()
        if count > len(blocks):
            raise ValueError(
                f"train.unfreeze is {count}, and the pre-trained network for {self.modality} has {len(blocks)} blocks"
            )
        for at, block in enumerate(blocks):
            block.requires_grad_(at >= len(blocks) - count)

    def train(self, mode: bool = True) -> Self:
        """The head trains; the trunk stays as it serves."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map what the front gives to (N, outputs)."""
        out: torch.Tensor = self.head(self.trunk(x))
        return out


def front(spec: DataSpec, transform: Transform) -> nn.Module:
    """What the trunk of a modality is given, in the place of the modality's own front."""
    return TRUNKS[spec.modality].front(spec, transform)


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the network; `Transfer.pretrain` is for when a training begins."""
    del transform
    return Transfer(params, spec)
