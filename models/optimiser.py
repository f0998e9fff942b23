"""The part of the `train` section that a task owns: loss, optimiser and what regularises them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Optimiser(BaseModel, extra="forbid", frozen=True):
    """AdamW (Loshchilov and Hutter, 2019) with warm-up and cosine decay, the loss, and what regularises it."""

    lr: float = Field(
        0.005, ge=0, le=10, description="Peak learning rate; 0 finds one by a range test before training."
    )
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
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="'balanced': errors count inversely to the frequency of their class in training."
    )
    focal: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Gamma of the focal loss, which plays down easy samples; 0 is cross-entropy.",
    )
    huber: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Of regressions: errors beyond so many standard deviations count linearly; 0 squares all.",
    )
    l1: float = Field(0.0, ge=0, le=1, description="Penalty on the sum of absolute weights, not of biases.")
    mixup: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Alpha of mixup, which blends pairs of samples; 0 blends none; not for texts, nor with cutmix.",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Alpha of cutmix, which pastes rectangles of other images; 0 pastes none.",
    )
    unfreeze: int = Field(
        0,
        ge=0,
        le=64,
        description="Of 'transfer': the last blocks of the pre-trained network that learn too; 0 freezes all of it.",
    )
    unfreeze_every: int = Field(
        0,
        ge=0,
        le=1000,
        description="Of 'transfer': epochs from one block's beginning to learn to the next one's; 0 begins at once.",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Of 'transfer': the learning rate of a block, as a share of that of what comes after it.",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of a running mean of the weights, which is the model; 0 takes the last.",
    )

    def opened(self, epoch: int) -> int:
        """How many blocks of a pre-trained network learn in an epoch, counted from 0.

        >>> [Optimiser(unfreeze=2, unfreeze_every=3).opened(epoch) for epoch in (0, 2, 3, 6, 9)]
        [0, 0, 1, 2, 2]
        """
        if not self.unfreeze_every:
            return self.unfreeze
        return min(self.unfreeze, epoch // self.unfreeze_every)
