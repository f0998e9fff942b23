"""The task of an autoencoder: to reconstruct what is normal, and to raise the alarm at what it cannot."""

from __future__ import annotations

import torch

from models.autoencoder import Autoencoder
from models.tasks import Batch, Supervised
from models.together import everyone, own_draws


class Reconstruction(Supervised):
    """Learns from normal samples alone; batches are pairs of inputs and labels (N,), 0 normal and 1 an anomaly.

    Logs `train_loss` and `val_loss`, the mean error of normal samples, and `val_score`, the area under the ROC curve
    of the score on all validation samples.
    """

    def _net(self) -> Autoencoder:
        net = self.served.net
        assert isinstance(net, Autoencoder)
        return net

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """The error of one batch's reconstruction, a scalar."""
        inputs, labels = batch
        inputs = self.served.front(self._augmented(inputs, index))
        with own_draws(self._draws(index)):
            loss = self._net().loss(inputs, self.optimiser.divergence)
        loss = loss * self._weight(labels, index)
        self._note(loss, len(labels), index)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Collect the errors of every sample."""
        del index
        inputs, labels = batch
        errors = self._net().errors(self.served.front(inputs)).double()
        self._add("val_loss", errors[labels == 0].sum(), int((labels == 0).sum()))
        seen = torch.stack([errors, labels.double()])
        self.totals["seen"] = torch.cat([self.totals["seen"], seen], 1) if "seen" in self.totals else seen

    def losses(self, batch: Batch) -> torch.Tensor:
        """The error of every normal sample (n,) of a batch."""
        inputs, labels = batch
        return self._net().errors(self.served.front(inputs))[labels == 0]

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's means, and the share of pairs that the score puts in order."""
        errors, labels = torch.cat(everyone(self.totals.pop("seen")), dim=1)
        normal, other = errors[labels == 0], errors[labels == 1]
        if len(normal) and len(other):
            ranks = torch.searchsorted(normal.sort().values, other).double()
            self._add("val_score", ranks.sum() / len(normal), len(other))
        else:
            self._add("val_score", errors.new_tensor(0.5), 1)
        super().on_validation_epoch_end()

    @torch.no_grad()
    def settle(self, batches: object) -> None:
        """Put the alarm where `normal_share` of the normal validation samples score below it."""
        net = self._net()
        found = [
            net.errors(self.served.front(inputs))[labels == 0]
            for inputs, labels in batches  # type: ignore[attr-defined]
        ]
        net.threshold.fill_(
            torch.cat(everyone(torch.cat(found))).double().quantile(self.optimiser.normal_share).float()
        )
