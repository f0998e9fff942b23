"""Differentially private training: how much noise a budget asks for, and how much of it is spent.

The guarantee is that of DP-SGD with Poisson sampling, for two sets of training samples that differ in one. Opacus'
accountant of Renyi divergences (Mironov et al., 2019) bounds what all steps together tell. Its accountant of privacy
loss variables is tighter, by 5 to 8 % of the noise, and takes ten times as long, in every trial; it also computes
numerically what this one bounds in closed form.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from models.together import place
from pipeline.core.params import UserError
from pipeline.extras import OPACUS
from pipeline.fitting.batches import Batches
from pipeline.fitting.secret import Secret
from pipeline.fitting.settings import Privacy, Train
from serving.inputs.spec import Task

if TYPE_CHECKING:
    from models.private import Private

ACCOUNTANT = "rdp"


def private_task(task: Task) -> type[Private]:
    """The private form of a task.

    Raises:
        UserError: Opacus is not installed, or the task has none.
    """
    if OPACUS.absent:
        raise UserError(
            "train.privacy needs the package 'opacus', which is not installed; "
            "run: pip install -c constraints.txt '.[privacy]'"
        )
    from models.private import Private, PrivateReconstruction

    found = {"classification": Private, "regression": Private, "anomaly": PrivateReconstruction}.get(task)
    if found is None:
        raise UserError(f"train.privacy knows no task '{task}'; set train.privacy.epsilon to 0")
    return found


@cache
def noise_multiplier(privacy: Privacy, rate: float, steps: int) -> float:
    """Standard deviation of the noise over `clip`, for which so many steps spend the budget.

    Raises:
        UserError: no noise is enough.
    """
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(
                get_noise_multiplier(
                    target_epsilon=privacy.epsilon, target_delta=privacy.delta, sample_rate=rate, steps=steps,
                    accountant=ACCOUNTANT, epsilon_tolerance=min(0.01, privacy.epsilon / 100),
                )
            )  # fmt: skip
        except ValueError:
            raise UserError(
                f"train.privacy.epsilon: {privacy.epsilon:g} is too little for {steps} steps; "
                "give more, or fewer train.max_epochs"
            ) from None


def epsilon_spent(noise: float, rate: float, steps: int, delta: float) -> float:
    """What so many steps with so much noise spend."""
    from opacus.accountants import create_accountant

    accountant = create_accountant(ACCOUNTANT)
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta=delta)) if steps else 0.0


def promised(settings: Privacy, rows: list[dict[str, float]]) -> dict[str, float]:
    """What a training whose log has these rows promises, as metrics of its run; nothing where none was asked for."""
    if not settings.epsilon:
        return {}
    spent = {name: rows[-1][name] for name in ("epsilon", "noise_multiplier")}
    return {**spent, "delta": settings.delta, "clip": settings.clip}


class Guarded(Callback):
    """Gives a private task its noise, and says what is spent: by the steps really taken, which checkpoints count."""

    def __init__(self, train: Train, batches: Batches, secret: Secret) -> None:
        """Find the noise for the whole training.

        Raises:
            UserError: `delta` promises nothing for so few samples, the budget is too small, or processes share it.
        """
        if place()[1] > 1:
            raise UserError(
                "train.privacy is for one process, which draws all batches and noise; start no others"
            )
        self.settings, self.secret, self.steps = train.privacy, secret, 0
        self.rate, self.batch = batches.rate, batches.rate * batches.rows
        if self.settings.delta >= 1 / batches.rows:
            raise UserError(
                f"train.privacy.delta is {self.settings.delta:g} and there are {batches.rows} training samples; "
                f"expected less than {1 / batches.rows:.1g}, as one of so many may be given away with that chance"
            )
        self.noise = noise_multiplier(self.settings, self.rate, len(batches) * train.max_epochs)

    def spent(self) -> dict[str, float]:
        """The budget spent so far, and how, as metrics."""
        epsilon = epsilon_spent(self.noise, self.rate, self.steps, self.settings.delta)
        return {"epsilon": epsilon, "noise_multiplier": self.noise}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wrap the optimiser's gradients."""
        from models.private import Noised, Private

        assert isinstance(pl_module, Private)
        clip = self.settings.clip
        pl_module.noised = Noised(
            trainer.optimizers[0], self.noise, clip, self.batch, lambda shape: self._noise(shape)
        )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Let this step draw from the secret."""
        self._noise = self.secret.noise(trainer.global_step)
        torch.manual_seed(self.secret.seed(trainer.global_step))
        self.steps = trainer.global_step + 1
