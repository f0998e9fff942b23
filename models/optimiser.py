"""The part of the `train` section that a task owns: loss and optimiser."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Optimiser(BaseModel, extra="forbid", frozen=True):
    """AdamW (Loshchilov and Hutter, 2019) with warm-up and cosine decay, and the loss's smoothing."""

    lr: float = Field(0.005, gt=0, le=10, description="Peak learning rate.")
    weight_decay: float = Field(
        0.01, ge=0, le=10, description="Decoupled L2 decay of weights, not of biases."
    )
    warmup: float = Field(0.15, ge=0, le=0.9, description="Share of the steps in which the rate rises.")
    divergence: float = Field(
        0.001, ge=0, le=100, description="Weight of a variational autoencoder's divergence from its prior."
    )
    normal_share: float = Field(
        0.95, gt=0.5, lt=1, description="Share of normal validation samples that score below the alarm."
    )
    label_smoothing: float = Field(
        0.05, ge=0, lt=1, description="Share of the target spread over all classes."
    )
