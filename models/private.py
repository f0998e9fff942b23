"""DP-SGD for the tasks: the gradient of every sample is clipped, their sum is noised.

After Abadi et al., "Deep Learning with Differential Privacy" (2016). A sample's gradient is taken of a batch that holds
it alone (`torch.func`), so that no layer can mix samples, whatever it does; Opacus' own hooks know some layers alone,
and draw dropout anew for the rest. Opacus' optimiser clips, adds up and scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from opacus.optimizers import DPOptimizer
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.reconstruction import Reconstruction
from models.tasks import Batch, Supervised

MEMORY = 2**28  # bytes of gradients of single samples that are held at once
Draw = Callable[[tuple[int, ...]], torch.Tensor]  # standard normal values of a shape


class Noised(DPOptimizer):
    """Opacus' optimiser with noise from `draw`; it computes gradients, and what it is given takes the step."""

    def __init__(
        self, optimiser: torch.optim.Optimizer, noise: float, clip: float, batch: float, draw: Draw
    ) -> None:
        super().__init__(optimiser, noise_multiplier=noise, max_grad_norm=clip, expected_batch_size=batch)
        self.draw = draw

    def gather(self, gradients: dict[torch.nn.Parameter, torch.Tensor]) -> None:
        """Clip the gradients (n, *shape) of single samples, and add them to those of this step.

        A sample whose gradient is no number counts as one without.
        """
        finite = torch.stack([each.flatten(1).isfinite().all(1) for each in gradients.values()]).all(0)
        for weight in self.params:
            found = gradients[weight]
            if not finite.all():
                found = torch.where(finite.view(-1, *[1] * weight.ndim), found, torch.zeros_like(found))
            weight.grad_sample = found.view(found.shape)  # Opacus marks it, and biases may share one
        self.clip_and_accumulate()

    def add_noise(self) -> None:
        """Put the sum and its noise, `noise_multiplier * max_grad_norm` in each value, into `grad`."""
        for weight in self.params:
            noise = self.draw(tuple(weight.shape)).to(weight)
            weight.grad = weight.summed_grad + self.noise_multiplier * self.max_grad_norm * noise

    def release(self) -> None:
        """Leave the noised mean in `grad`: what the step may see. Nothing of single samples is kept."""
        self.add_noise()
        self.scale_grad()
        for weight in self.params:
            weight.grad_sample = weight.summed_grad = None


class Private(Supervised):
    """A task whose gradients are those of DP-SGD; `noised` is set once its optimiser is there.

    Batches may be empty: their step is one of noise alone.
    """

    noised: Noised | None = None

    def objective(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of augmented inputs, a scalar."""
        return self.loss.training(self.served.raw(inputs).float(), self._scaled(targets))

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The objective, where `torch.func` looks for it."""
        return self.objective(inputs, targets)

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """The mean loss of an augmented batch, a scalar; its gradients wait for `backward`."""
        del index
        inputs, targets = batch
        assert self.noised is not None
        weights = {name: each for name, each in self.named_parameters() if each.requires_grad}
        if not len(targets):
            self.noised.gather({each: each.new_zeros(0, *each.shape) for each in weights.values()})
            return self._told(targets.new_zeros((), dtype=torch.float32), 0)
        inputs = self.augment(inputs)
        chunk = max(1, MEMORY // (4 * sum(each.numel() for each in weights.values())))
        losses = [
            self._gathered(weights, *part)
            for part in zip(inputs.split(chunk), targets.split(chunk), strict=True)
        ]
        return self._told(torch.cat(losses).mean(), len(targets))

    def _gathered(
        self, weights: dict[str, torch.nn.Parameter], inputs: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """The losses (n,) of some samples, whose clipped gradients are added up."""
        assert self.noised is not None

        def loss(weights: dict[str, torch.Tensor], one: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = functional_call(self, weights, (one[None], target[None]))
            return found

        alone = vmap(grad_and_value(loss), in_dims=(None, 0, 0), randomness="different")
        plain = {name: each.detach() for name, each in weights.items()}
        # Other kinds of attention go sample by sample; mixed precision and single samples exclude each other.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(inputs.device.type, enabled=False):
            gradients, losses = alone(plain, inputs, targets)
        self.noised.gather({weights[name]: each for name, each in gradients.items()})
        return losses.detach()

    def _told(self, loss: torch.Tensor, count: int) -> torch.Tensor:
        self._add("train_loss", loss * count, count)
        return loss

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Put the noised mean of the clipped gradients where those of the loss would be."""
        del loss, args, kwargs
        assert self.noised is not None
        self.noised.release()


class PrivateReconstruction(Private, Reconstruction):
    """An autoencoder's."""

    def objective(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The error of the reconstruction of augmented inputs, a scalar."""
        del targets
        return self._net().loss(self.served.front(inputs), self.optimiser.divergence)
