"""The `model` section of `params.yaml`; light, so that stages which only read it load no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

Activation = Literal["relu", "leaky_relu", "gelu", "silu", "tanh"]


class Model(BaseModel, extra="forbid", frozen=True):
    """What network is built; every field may be a key of the tuner's search space."""

    family: Literal["cnn", "fnn"] = Field(
        "cnn", description="'cnn': residual convolutions; 'fnn': fully connected."
    )
    width: int = Field(
        12, ge=1, le=4096, description="Channels (cnn) of the first layer or units (fnn) of a hidden one."
    )
    depth: int = Field(3, ge=0, le=32, description="Residual blocks (cnn) or hidden layers (fnn).")
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of features dropped before the last layer.")
    activation: Activation = Field("relu", description="Non-linearity between layers.")
