"""Keeps the validation loss of every sample, for those who compare two models on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from models.tasks import Batch, Supervised


class SampleLosses(Callback):
    """Writes the losses (N,) float32 of the last epoch's validation to a `.npy`, in the order of the samples.

    It is written before the epoch is checkpointed, so whoever goes on from the last checkpoint finds it. A task whose
    loss is not one of single samples writes nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: list[np.ndarray] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew."""
        self.parts.clear()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *_: int
    ) -> None:
        """Take the losses of a batch."""
        assert isinstance(pl_module, Supervised)
        if trainer.current_epoch + 1 == trainer.max_epochs:
            with torch.no_grad():
                found = pl_module.losses(batch)
            if found is not None:
                self.parts.append(found.float().cpu().numpy())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them."""
        if self.parts:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            np.save(self.path, np.concatenate(self.parts))
