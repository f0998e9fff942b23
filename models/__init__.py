"""The networks: `MODELS` maps `model.family` to what it fits and its builder; a new family is one file and one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from models import autoencoder, cnn, fnn, gan, recurrent, transfer, transformer
from models.fronts import FRONTS, Front
from models.initialisation import initialise
from models.params import Model
from serving.inputs.spec import DataSpec, Transform


class Network(NamedTuple):
    """A family: its builder, the modalities it fits, the tasks it serves, and its front, where it has its own."""

    build: Callable[[Model, DataSpec, Transform], nn.Module]
    modalities: tuple[str, ...]
    tasks: tuple[str, ...] = ("classification", "regression")
    front: Front | None = None


MODELS: dict[str, Network] = {
    "cnn": Network(cnn.build, ("image", "series", "text")),
    "fnn": Network(fnn.build, ("image", "table", "text")),
    "rnn": Network(recurrent.build, ("series", "text")),
    "lstm": Network(recurrent.build, ("series", "text")),
    "gru": Network(recurrent.build, ("series", "text")),
    "transformer": Network(transformer.build, ("image", "table", "series", "text")),
    "transfer": Network(transfer.build, tuple(transfer.TRUNKS), front=transfer.front),
    "autoencoder": Network(autoencoder.build, ("image", "table"), ("anomaly",)),
    "gan": Network(gan.build, ("image",), ("generation",), front=gan.front),
}


def families(modality: str, task: str = "classification") -> list[str]:
    """The families that fit a modality and a task."""
    return [
        name for name, network in MODELS.items() if modality in network.modalities and task in network.tasks
    ]


def front(family: str, spec: DataSpec, transform: Transform) -> nn.Module:
    """What maps raw canonical input to that which the network of a family takes."""
    return (MODELS[family].front or FRONTS[spec.modality])(spec, transform)


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the network of `params.family`: what the modality's front gives to (N, outputs).

    Raises:
        ValueError: the family does not fit the modality, or a parameter the family.
    """
    fitting = families(spec.modality, spec.task)
    if params.family not in fitting:
        found = f"does not fit {spec.task} of modality '{spec.modality}'"
        if params.family == "auto":
            found = "is no network itself: it is chosen once for the data, and cannot be tuned"
        raise ValueError(
            f"model.family '{params.family}' {found}; expected one of {', '.join(fitting) or 'none'}"
        )
    net = MODELS[params.family].build(params, spec, transform)
    initialise(net, params.initialisation)
    return net
