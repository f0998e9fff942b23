"""The networks: `MODELS` maps `model.family` to a builder; a new family is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from models import cnn, fnn
from models.params import Model
from serving.inputs.spec import DataSpec

MODELS: dict[str, Callable[[Model, DataSpec], nn.Module]] = {"cnn": cnn.build, "fnn": fnn.build}


def build(params: Model, spec: DataSpec) -> nn.Module:
    """Build the network of `params.family`: normalised inputs (N, *input_shape) to logits (N, K)."""
    return MODELS[params.family](params, spec)
