"""How weights begin: what `model.initialisation` says, of linear, convolutional and recurrent layers.

After He et al., "Delving Deep into Rectifiers" (2015), Glorot and Bengio, "Understanding the difficulty of
training deep feedforward neural networks" (2010), and Saxe et al., "Exact solutions to the nonlinear dynamics
of learning in deep linear neural networks" (2014); each gate of a recurrent layer is a matrix of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from models.params import Initialisation

GATES = {nn.RNN: 1, nn.LSTM: 4, nn.GRU: 3}


def _he(weight: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


INITIALISATIONS: dict[str, Callable[[torch.Tensor], object]] = {
    "he": _he,  # normal, variance 2 / inputs
    "xavier": nn.init.xavier_uniform_,  # uniform, variance 2 / (inputs + outputs)
    "orthogonal": nn.init.orthogonal_,  # rows, or columns where they are fewer, of length 1 at right angles
}


def initialise(net: nn.Module, kind: Initialisation) -> None:
    """Fill the weights of `net` anew and put 0 into their biases; `default` leaves what PyTorch put there."""
    if kind == "default":
        return
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            _fill(layer.weight, kind)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.RNNBase):
            for weight in layer.parameters():
                if weight.ndim == 1:
                    nn.init.zeros_(weight)
                else:
                    for gate in weight.detach().chunk(GATES[type(layer)]):
                        _fill(gate, kind)


def _fill(weight: torch.Tensor, kind: str) -> None:
    fresh = torch.empty(weight.shape)  # contiguous, which a convolution's weight need not be
    INITIALISATIONS[kind](fresh)
    weight.detach().copy_(fresh)
