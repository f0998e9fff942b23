"""How many bits training computes in: `train.precision`."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities import GradClipAlgorithmType

from pipeline.core.params import UserError
from pipeline.fitting.settings import Train


class Bfloat16(MixedPrecision):
    """bf16 beside 32-bit weights, with gradients clipped for a fused optimiser too.

    Lightning refuses that for any mixed precision, as scaled gradients cannot be clipped; those of bf16 are not scaled.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__("bf16-mixed", device.type)

    def clip_gradients(
        self,
        optimizer: torch.optim.Optimizer,
        clip_val: int | float = 0.0,
        gradient_clip_algorithm: GradClipAlgorithmType = GradClipAlgorithmType.NORM,
    ) -> None:
        """Clip them as in 32 bits."""
        Precision.clip_gradients(self, optimizer, clip_val, gradient_clip_algorithm)


def precision_of(train: Train, device: torch.device) -> Any:
    """The precision that suits the device, unless one is given.

    Raises:
        UserError: one is given that the device has not.
    """
    if train.precision == "16-mixed" and device.type != "cuda":
        raise UserError(
            "train.precision '16-mixed' is for GPUs, and training runs on the CPU here; use bf16-mixed or 32-true"
        )
    if train.precision != "auto":
        return train.precision
    return "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def precision_of_trainer(train: Train, device: torch.device) -> dict[str, Any]:
    """The arguments of Lightning's Trainer for it."""
    chosen = precision_of(train, device)
    return {"plugins": [Bfloat16(device)]} if chosen == "bf16-mixed" else {"precision": chosen}
