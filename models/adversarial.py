"""The task of a GAN: a generator that makes images which a critic cannot tell from real ones of their class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from models.gan import Generator
from models.tasks import Batch, Supervised
from models.together import everyone, interleaved, own_draws, place
from serving.inputs.generation import HEAD, SEEDS, canonical

BETAS = (0.5, 0.999)  # Radford et al., 2016: less momentum, as the other player moves
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, float]]


class Adversarial(Supervised):
    """Two players with an optimiser each and the hinge loss (Lim and Ye, 2017), batches of images and classes (N,).

    Logs `train_loss`, the critic's loss: 2 where it cannot tell real from generated images, 0 where it always can;
    `val_loss` and `val_score`, which `measure` gives for class numbers (N,), real and generated images (N, C, H, W) of
    the validation samples, always of the same seeds.
    """

    measure: Measure

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.automatic_optimization = False
        self.critic = self._generator().critic()
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.clip = 0.0  # largest norm of either player's gradient; 0 does not clip

    def _generator(self) -> Generator:
        net = self.served.net
        assert isinstance(net, Generator)
        return net

    def _generated(self, labels: torch.Tensor, index: int) -> torch.Tensor:
        rank, world = place()
        count = len(labels) if world == 1 else self.whole(index)
        noise = torch.randn(count, self._generator().params.latent, device=labels.device)
        return self._generator().images(labels, noise[rank::world])

    def training_step(self, batch: Batch, index: int) -> None:  # type: ignore[override]
        """One step of the critic, then one of the generator."""
        inputs, labels = batch
        generator, critic = self.optimizers()  # type: ignore[attr-defined]
        real = self._augmented(inputs, index).float() / 127.5 - 1
        made = self._generated(labels, index)
        weight = self._weight(labels, index)
        with own_draws(self._draws(index)):
            found = self.critic(real, labels), self.critic(made.detach(), labels)
        loss = ((1 - found[0]).relu().mean() + (1 + found[1]).relu().mean()) * weight
        self._step(critic, loss)
        self._note(loss, len(labels), index)
        self.critic.requires_grad_(False)
        with own_draws(self._draws(-1 - index)):
            answer = self.critic(made, labels)
        self._step(generator, -answer.mean() * weight)
        self.critic.requires_grad_(True)
        for schedule in self.lr_schedulers():  # type: ignore[union-attr]
            schedule.step()  # type: ignore[call-arg]

    def _step(self, optimiser: Any, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient of the player whose turn it is, after the callbacks saw it whole."""
        if self.clip:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            torch.nn.utils.clip_grad_norm_(weights, self.clip)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep the real images of a batch, and generate as many of the same classes."""
        del index
        self.seen.append(batch)

    def losses(self, batch: Batch) -> None:
        """Nothing: the distance is one of all images together."""

    def on_validation_epoch_end(self) -> None:
        """Log how far what is generated is from what is real, and the epoch's means."""
        parts = [interleaved(everyone(torch.cat(part).cpu())) for part in zip(*self.seen, strict=True)]
        images, labels = (part.numpy() for part in parts)
        self.seen.clear()
        loss, score = self.measure(labels, images, self._asked(labels).reshape(images.shape))
        for name, value in (("val_loss", loss), ("val_score", score)):
            self._add(name, torch.tensor(value), 1)
        super().on_validation_epoch_end()

    def _asked(self, labels: np.ndarray, chunk: int = 512) -> np.ndarray:
        """Pixels (N, C * H * W) of classes (N,), each of the seed of its place."""
        latent = self._generator().params.latent
        rows = np.stack([canonical(int(label), at % SEEDS, latent) for at, label in enumerate(labels)])
        parts = [self.served(part.to(self.device)) for part in torch.from_numpy(rows).split(chunk)]
        return torch.cat(parts)[:, HEAD:].float().cpu().numpy()

    def configure_optimizers(self) -> Any:
        """AdamW for either player, the generator first; warm-up and cosine decay, a step a batch."""
        players = (self.served, self.critic)
        made = [
            torch.optim.AdamW(
                player.parameters(), self.optimiser.lr, BETAS, weight_decay=self.optimiser.weight_decay
            )
            for player in players
        ]
        return made, [torch.optim.lr_scheduler.LambdaLR(each, self._share) for each in made]
