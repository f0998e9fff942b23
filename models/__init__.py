"""The networks: `MODELS` maps `model.family` to a builder; a new family is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from models import autoencoder, cnn, fnn
from models.params import Model
from serving.inputs.spec import DataSpec, Transform

Builder = Callable[[Model, DataSpec, Transform], nn.Module]
MODELS: dict[str, Builder] = {"cnn": cnn.build, "fnn": fnn.build, "autoencoder": autoencoder.build}


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the network of `params.family`: what the modality's front gives to (N, outputs).

    Raises:
        ValueError: the family does not fit the modality.
    """
    if (params.family == "autoencoder") != (spec.task == "anomaly"):
        raise ValueError(
            f"model.family '{params.family}' does not fit the task {spec.task}: 'autoencoder' and data.task 'anomaly' "
            "belong together"
        )
    return MODELS[params.family](params, spec, transform)
