"""Pieces that several families share."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from models.params import Model

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
NORMALISATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "none": lambda features: nn.Identity(),
}
PICTURE_NORMALISATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),  # over channels and places of one picture
    "none": lambda channels: nn.Identity(),
}


def activation(name: str) -> nn.Module:
    """A new activation module by its name in `ACTIVATIONS`."""
    return ACTIVATIONS[name]()


def normalisation(name: str, features: int) -> nn.Module:
    """A new normalisation of features (N, `features`) by its name in `NORMALISATIONS`."""
    return NORMALISATIONS[name](features)


def hidden(size: int, params: Model) -> tuple[list[nn.Module], int]:
    """`depth` fully connected layers of `width` units over features (N, `size`), and how many features they give."""
    layers: list[nn.Module] = []
    for _ in range(params.depth):
        layers += [
            nn.Linear(size, params.width, bias=params.normalisation == "none"),
            normalisation(params.normalisation, params.width),
            activation(params.activation),
            nn.Dropout(params.dropout),
        ]
        size = params.width
    return layers, size
