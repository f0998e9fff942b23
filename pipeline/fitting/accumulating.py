"""Gradients of several batches that are added up to those of one: `train.accumulate`."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from pipeline.fitting.batches import Batches


class Accumulated(Callback):
    """Makes a step's gradient the mean over the samples of its group of batches, as one large batch would have it.

    Lightning divides each batch's loss by the number of batches of a whole group; of an incomplete group, and of a
    smaller last batch, that is not the mean.
    """

    def __init__(self, batches: Batches, group: int) -> None:
        self.batches, self.group, self._at = batches, group, 0
        self._weights: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find what each batch of the epoch weighs."""
        self._weights = weights(self.batches.sizes(), self.group)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note which batch it is."""
        self._at = batch_idx

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor
    ) -> None:
        """Weigh the gradient, not the loss, so that what is logged stays as it is."""
        factor = self._weights[self._at]
        if factor != 1.0:
            loss.register_hook(lambda gradient: gradient * factor)


def weights(sizes: list[int], group: int) -> list[float]:
    """What each batch of an epoch weighs among its group's, where 1 is a group-th: its share of their samples.

    >>> weights([4, 4, 4, 4, 2], 2), weights([4, 4, 2], 4)
    ([1.0, 1.0, 1.0, 1.0, 2.0], [1.6, 1.6, 0.8])
    """
    firsts = (at - at % group for at in range(len(sizes)))
    return [group * size / sum(sizes[at : at + group]) for size, at in zip(sizes, firsts, strict=True)]
