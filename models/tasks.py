"""Tasks: the LightningModules that own loss, metrics and optimiser."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import distributed, nn

from models.losses import Loss, each, l1
from models.mixing import Mixer
from models.optimiser import Optimiser
from models.served import Served
from models.sharding import is_sharded, shard
from models.together import gathered, own_draws, place, rows_of
from models.transfer import Transfer

Batch = tuple[torch.Tensor, torch.Tensor]


class Supervised(pl.LightningModule):
    """Classification or regression, with augmentation and mixing of batches.

    Batches are pairs of canonical inputs (N, ...) and targets, (N,) int64 or (N, M) float32; `counts` (K,) are
    those of the classes in training. Logs `train_loss`, `val_loss` (plain cross-entropy or squared error,
    whatever is minimised) and `val_score` once an epoch: the accuracy, or R2 averaged over the targets.
    """

    def __init__(
        self,
        served: Served,
        optimiser: Optimiser,
        augment: nn.Module,
        steps: int,
        mix: Mixer | None = None,
        counts: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.served, self.optimiser, self.augment, self.steps = served, optimiser, augment, steps
        self.mix, self.loss = mix, Loss(optimiser, served.classifies, counts)
        self.totals: dict[str, torch.Tensor] = {}
        self.size, self.rows = 0, 0  # samples in a batch of all processes, and in an epoch; they alone ask
        self._seed = 0
        self._open(optimiser.opened(0))

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """The loss of one augmented batch, a scalar: the mean of what all processes give is that of the whole batch."""
        inputs, targets = batch
        inputs = self._augmented(inputs, index)
        if self.mix is not None:
            inputs, targets = self._mixed(inputs, targets, index)
        with own_draws(self._draws(index)):
            out = self.served.raw(inputs).float()
        loss = self.loss.training(out, self._scaled(targets)) * self._weight(targets, index)
        self._note(loss, len(targets), index)
        if self.optimiser.l1:
            loss = loss + self.optimiser.l1 * l1(w for w in self.served.parameters() if w.requires_grad)
        return loss

    def whole(self, index: int) -> int:
        """Samples in a batch of all processes."""
        return min(self.size, self.rows - index * self.size)

    def _augmented(self, inputs: torch.Tensor, index: int) -> torch.Tensor:
        with rows_of(self.whole(index)):
            augmented: torch.Tensor = self.augment(inputs)
        return augmented

    def _mixed(self, inputs: torch.Tensor, targets: torch.Tensor, index: int) -> Batch:
        """This process's rows of the mixture of the whole batch."""
        assert self.mix is not None
        rank, world = place()
        count = self.whole(index)
        inputs, targets = self.mix(gathered(inputs, count), gathered(targets, count))
        return inputs[rank::world], targets[rank::world]

    def _weight(self, targets: torch.Tensor, index: int) -> torch.Tensor | float:
        """What this process's mean loss counts by, so that the mean of all is that of the whole batch; 1 for one."""
        world = place()[1]
        if world == 1:
            return 1.0
        mass = self.loss.mass(targets)
        if isinstance(mass, torch.Tensor):
            whole = mass.clone()
            distributed.all_reduce(whole)
            return mass * world / whole
        return mass * world / self.whole(index)

    def _note(self, loss: torch.Tensor, count: int, index: int) -> None:
        """Add a batch's weighted loss to the epoch's."""
        world = place()[1]
        share = count if world == 1 else self.whole(index) / world
        self._add("train_loss", loss.detach() * share, count)

    def _draws(self, index: int) -> int:
        """A seed of its own for each step."""
        return self._seed * 1_000_003 + index

    def configure_model(self) -> None:
        """Share the network out, where Lightning's strategy says that each process holds a part."""
        if self.device_mesh is not None and not is_sharded(self.served.net):
            shard(self.served.net, self.device_mesh["data_parallel"])

    def setup(self, stage: str) -> None:
        """Let all learn that will ever learn, as processes agree once on what they share."""
        del stage
        if place()[1] > 1:
            self._open(self.optimiser.unfreeze)

    def on_train_epoch_start(self) -> None:
        """Let as many blocks of a pre-trained network learn as it is time for."""
        self._seed = torch.initial_seed()
        self._open(self.optimiser.opened(self.current_epoch))

    def _open(self, blocks: int) -> None:
        if isinstance(self.served.net, Transfer) and not self.served.lifted:
            self.served.net.open(blocks)

    def _scaled(self, targets: torch.Tensor) -> torch.Tensor:
        return targets if self.served.classifies else self.served.scaled(targets)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Accumulate loss and score."""
        del index
        inputs, targets = batch
        out = self.served.raw(inputs).float()  # of lower precision in a mixed one
        self._add("val_loss", self.loss.plain(out, self._scaled(targets)) * len(targets), len(targets))
        if self.served.classifies:
            self._add("val_score", (out.argmax(1) == targets).sum(), len(targets))
        else:
            scaled = self.served.scaled(targets).double()
            parts = [torch.ones_like(scaled), scaled, scaled**2, (out - scaled) ** 2]
            sums = torch.stack([part.sum(0) for part in parts])  # (4, M)
            self.totals["r2"] = self.totals["r2"] + sums if "r2" in self.totals else sums

    def losses(self, batch: Batch) -> torch.Tensor | None:
        """The loss of every sample (n,) of a validation batch, whose mean is `val_loss`; None where there is none."""
        inputs, targets = batch
        return each(self.served.raw(inputs).float(), self._scaled(targets))

    def _add(self, name: str, value: torch.Tensor, count: int) -> None:
        pair = torch.stack([value.double(), value.new_tensor(count, dtype=torch.float64)])
        self.totals[name] = self.totals[name] + pair if name in self.totals else pair

    def on_validation_epoch_end(self) -> None:
        """Log the means of the epoch, training and validation alike; validation ends an epoch."""
        self._gather()
        if (sums := self.totals.pop("r2", None)) is not None:
            count, total, squares, errors = sums
            r2 = 1 - errors / (squares - total**2 / count).clamp(min=1e-12)
            self._add("val_score", r2.mean(), 1)
        for name, (total, count) in self.totals.items():
            self.log(name, (total / count).float())
        self.totals.clear()

    def _gather(self) -> None:
        """Add up the totals of all processes, so that each logs, and stops by, the metrics of the whole."""
        if place()[1] > 1:
            for name in sorted(self.totals):  # in one order, as processes wait for each other
                total = self.totals[name].contiguous()
                distributed.all_reduce(total)
                self.totals[name] = total

    def settle(self, batches: object) -> None:
        """Fix what is left to fix once the weights are final, from validation batches; here nothing."""

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and cosine decay, one scheduler step a batch."""
        fused = (
            self.trainer.precision != "16-mixed"
        )  # whose gradient scaler cannot clip for a fused optimiser
        adamw = torch.optim.AdamW(self.groups(self.optimiser.lr), lr=self.optimiser.lr, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: self._share(step))
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Weights, which decay, and biases, which do not, by the rate at which they learn; those to learn later too."""
        return [
            {"params": chosen, "weight_decay": decay, "lr": lr * share}
            for share, weights in self._learners()
            for decay, chosen in (
                (self.optimiser.weight_decay, [weight for weight in weights if weight.ndim > 1]),
                (0.0, [weight for weight in weights if weight.ndim <= 1]),
            )
        ]

    def _learners(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Shares of the learning rate, and what learns at each: all at 1, but the blocks of a pre-trained network."""
        net, settings = self.served.net, self.optimiser
        if not isinstance(net, Transfer):
            return [(1.0, list(self.served.parameters()))]
        blocks = net.blocks()[::-1][: settings.unfreeze] if settings.unfreeze else []
        return [
            (settings.layer_decay**depth, list(part.parameters()))
            for depth, part in enumerate([net.head, *blocks])
        ]

    def _share(self, step: int) -> float:
        """Share of the peak learning rate at a step: up to 1 linearly, then down along half a cosine."""
        warm = max(1, round(self.steps * self.optimiser.warmup))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, self.steps - warm))))
