"""The training doctor: looks at gradients and activations of some steps, and keeps what it saw for `diagnoses.py`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from models.adversarial import Adversarial
from models.layers import ACTIVATIONS
from models.losses import guessing
from models.sharding import whole
from models.tasks import Supervised
from pipeline.fitting.compiling import compiled, paused
from pipeline.fitting.diagnoses import Facts, Look
from pipeline.fitting.epochlog import EpochHook

EVERY = 40  # steps between looks; one look costs less than half a step, so all cost about 1 %
LEAST = 6  # looks at a training that is so short
ENOUGH = 16  # values by which a unit that never varies is told from one that did not happen to
FLAT: dict[type[nn.Module], tuple[int, ...]] = {nn.Sigmoid: (0, 1), nn.Tanh: (-1, 1)}  # 0 for all others
KINDS = tuple({type(make()) for make in ACTIVATIONS.values()})
WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)


class Doctor(Callback):
    """Collects `facts`; after each epoch hands what the epoch's looks saw, averaged, to the hooks.

    What it saw is part of a checkpoint, so a resumed training is judged whole.
    """

    def __init__(self, hooks: list[EpochHook] | None = None) -> None:
        self.hooks, self.guesses = hooks or [], (1.0, 1.0)
        self.looks: list[dict[str, Any]] = []
        self.losses: dict[str, list[float]] = {"train_loss": [], "val_loss": [], "val_score": []}
        self.lr, self._every, self._epoch = 0.0, EVERY, 0
        self._adversarial = False
        self._look: dict[str, Any] = {}
        self._before: dict[str, torch.Tensor] = {}
        self._hooked: list[Any] = []
        self._axis = 1

    @property
    def facts(self) -> Facts:
        """All that was seen."""
        losses = {name: tuple(values) for name, values in self.losses.items()}
        looks = tuple(Look(**look) for look in self.looks)
        train_guess, val_guess = self.guesses
        return Facts(
            looks,
            **losses,
            train_guess=train_guess,
            val_guess=val_guess,
            lr=self.lr,
            adversarial=self._adversarial,
        )

    def state_dict(self) -> dict[str, Any]:
        """What was seen until now."""
        return {"looks": self.looks, "losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint knows."""
        self.looks, self.losses = state_dict["looks"], state_dict["losses"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose how often to look."""
        assert isinstance(pl_module, Supervised)
        self.lr = pl_module.optimiser.lr
        self._adversarial = isinstance(pl_module, Adversarial)
        self.guesses = guessing(pl_module.optimiser, pl_module.loss.counts)
        self._every = min(EVERY, max(1, int(trainer.estimated_stepping_batches) // LEAST))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where the epoch's looks begin."""
        self._epoch = len(self.looks)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a look, where it is time for one."""
        batches, group = int(trainer.num_training_batches), trainer.accumulate_grad_batches
        steps_now = (batch_idx + 1) % group == 0 or batch_idx + 1 == batches
        step = trainer.current_epoch * -(-batches // group) + batch_idx // group
        if not steps_now or step % self._every != self._every // 2:
            return
        self._look = {"step": step, "means": {}, "stds": {}, "zeros": {}, "dead": {}}
        assert isinstance(pl_module, Supervised)
        if compiled(pl_module.served.net):
            paused(True)
        modules: list[tuple[str, nn.Module]] = list(pl_module.served.net.named_modules())
        for name, module in modules:
            if type(module) in KINDS or isinstance(module, WEIGHTED):
                self._hooked.append(module.register_forward_hook(self._watcher(name or "net")))

    def _watcher(self, name: str) -> Any:
        @torch.no_grad()
        def watch(module: nn.Module, _: Any, out: Any) -> None:
            if isinstance(module, WEIGHTED):
                self._axis = 1 if isinstance(module, nn.modules.conv._ConvNd) else -1
                return
            units = out.movedim(self._axis, 0).flatten(1).float()  # (units, values)
            spread = units.amax(1) - units.amin(1)
            self._look["means"][name] = units.mean()
            self._look["stds"][name] = units.std(correction=0)
            self._look["zeros"][name] = (units == 0).float().mean()
            if units.shape[1] >= ENOUGH:
                ends = torch.stack([(units[:, 0] - end).abs() < 1e-4 for end in FLAT.get(type(module), (0,))])
                self._look["dead"][name] = ((spread < 1e-6) & ends.any(0)).float().mean()

        return watch

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure gradients before they are clipped, and keep the weights as they are before the step."""
        if not self._look or optimizer is not trainer.optimizers[0]:
            return
        assert isinstance(pl_module, Supervised)
        for hook in self._hooked:
            hook.remove()
        self._hooked.clear()
        if compiled(pl_module.served.net):
            paused(False)
        given = [weight.grad for weight in pl_module.served.parameters() if weight.grad is not None]
        self._look["norm"] = torch.nn.utils.get_total_norm(given)
        self._look["lr"] = float(optimizer.param_groups[0]["lr"])
        layers = _layers(pl_module)
        self._look["gradients"] = {
            name: weight.grad.float().square().mean().sqrt()
            for name, weight in layers.items()
            if weight.grad is not None
        }
        self._before = {name: weight.detach().clone() for name, weight in layers.items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a look: what the step did to the weights."""
        if not self._look:
            return
        if self._before:
            layers = _layers(pl_module)
            self._look["changes"] = {
                name: (layers[name].detach() - old).norm() / old.norm().clamp(min=1e-12)
                for name, old in self._before.items()
            }
            self.looks.append(asdict(Look(**_numbers(self._look))))
        self._look, self._before = {}, {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch's losses; report its looks."""
        for name, values in self.losses.items():
            values.append(float(trainer.callback_metrics[name]))
        looks = self.looks[self._epoch :]
        if looks:
            for hook in self.hooks:
                hook(trainer.current_epoch, _averaged(looks))


def _layers(pl_module: pl.LightningModule) -> dict[str, torch.Tensor]:
    """The weight of each layer that maps all its inputs, so no embedding, in the order of the network."""
    assert isinstance(pl_module, Supervised)
    found: dict[str, torch.Tensor] = {}
    for name, module in pl_module.served.net.named_modules():
        if isinstance(module, WEIGHTED):
            weights = [w for w in module.parameters(recurse=False) if w.ndim > 1 and w.requires_grad]
            if weights:
                found[name or "net"] = weights[0]
    return found


def _numbers(look: dict[str, Any]) -> dict[str, Any]:
    """A look with plain numbers in the place of scalars on a device, fetched at once."""
    scalars = [
        whole(value).reshape(()).float()
        for kind in look.values()
        for value in (kind.values() if isinstance(kind, dict) else [kind])
        if isinstance(value, torch.Tensor)
    ]
    numbers = iter(torch.stack(scalars).tolist() if scalars else [])
    plain: dict[str, Any] = {}
    for name, kind in look.items():
        if isinstance(kind, dict):
            plain[name] = {key: next(numbers) for key in kind}
        else:
            plain[name] = next(numbers) if isinstance(kind, torch.Tensor) else kind
    return plain


def _averaged(looks: list[dict[str, Any]]) -> dict[str, float]:
    """Metrics of an epoch: `gradient_norm`, and by layer `gradient/...`, `activation_std/...` and so on."""
    found: dict[str, list[float]] = {}
    names = {"gradients": "gradient", "changes": "change", "means": "activation_mean", "stds": "activation_std",
             "zeros": "zeros", "dead": "dead"}  # fmt: skip
    for look in looks:
        found.setdefault("gradient_norm", []).append(look["norm"])
        for kind, name in names.items():
            for layer, value in look[kind].items():
                found.setdefault(f"{name}/{layer}", []).append(value)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return {name: value for name, value in means.items() if math.isfinite(value)}
