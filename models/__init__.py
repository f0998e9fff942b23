"""The networks: `MODELS` maps `model.family` to a builder; a new family is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from models import cnn, fnn
from models.params import Model
from serving.inputs.spec import DataSpec, Transform

Builder = Callable[[Model, DataSpec, Transform], nn.Module]
MODELS: dict[str, Builder] = {"cnn": cnn.build, "fnn": fnn.build}


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the network of `params.family`: what the modality's front gives to (N, outputs).

    Raises:
        ValueError: the family does not fit the modality.
    """
    return MODELS[params.family](params, spec, transform)
