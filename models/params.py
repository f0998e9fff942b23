"""The `model` section of `params.yaml`; light, so that stages which only read it load no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

Activation = Literal["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"]
Normalisation = Literal["batch", "layer", "none"]
Initialisation = Literal["default", "he", "xavier", "orthogonal"]
Family = Literal["auto", "cnn", "fnn", "rnn", "lstm", "gru", "transformer", "transfer", "autoencoder", "gan"]


class Model(BaseModel, extra="forbid", frozen=True):
    """What network is built; every field may be a key of the tuner's search space."""

    family: Family = Field(
        "cnn",
        description="'auto': what suits the data (tune and train say which); 'cnn': residual convolutions, for "
        "images, series and text; 'fnn': fully connected, for tables, texts (as bags of tokens) and small images; "
        "'rnn', 'lstm', 'gru': recurrent, for series and text; 'transformer': attention, for all; 'transfer': a "
        "pre-trained network under a head that learns, for images and texts; "
        "'autoencoder': learns what is normal, for data.task 'anomaly'; 'gan': generates images, for 'generation'.",
    )
    width: int = Field(
        12,
        ge=1,
        le=4096,
        description="Channels of the first layer (cnn; gan: of the last), units of every hidden one (a direction).",
    )
    depth: int = Field(
        3,
        ge=0,
        le=64,
        description="Residual blocks (cnn), doublings of an image (gan), or hidden layers; "
        "recurrent networks and gan have at least 1.",
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of features dropped in training.")
    activation: Activation = Field(
        "relu", description="Non-linearity between layers; within recurrent ones it is their own."
    )
    normalisation: Normalisation = Field(
        "batch", description="What hidden features are normalised over: the batch, or each sample's."
    )
    initialisation: Initialisation = Field(
        "default", description="How weights begin; 'default' is PyTorch's own."
    )
    bidirectional: bool = Field(True, description="Recurrent networks also read from the end.")
    heads: int = Field(4, ge=1, le=64, description="Attention heads of a transformer; they divide its width.")
    latent: int = Field(
        16,
        ge=1,
        le=1024,
        description="Values of an autoencoder's embedding, or of the noise of a gan.",
    )
    variational: bool = Field(
        False, description="An autoencoder's embedding is drawn from a learnt distribution."
    )
    kernel: int = Field(5, ge=1, le=63, description="Steps that a convolution over series sees; odd.")
    stride: int = Field(
        1,
        ge=1,
        le=32,
        description="Steps from one place of a cnn's first convolution over series or text to the next.",
    )
