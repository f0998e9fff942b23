"""A running mean of the weights, which is what is judged, kept and returned (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averaged(WeightAveraging):
    """Exponential mean of weights and running statistics; Lightning validates and saves it, and resumes it exactly.

    The decay grows to its value as `(1 + n) / (10 + n)` over the first steps n, so that the mean of a short
    training is not that of its beginning.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        def average(mean: Any, current: Any, count: torch.Tensor | int) -> None:
            steps = int(count)
            get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(mean, current, count)

        super().__init__(device=device, multi_avg_fn=average)
