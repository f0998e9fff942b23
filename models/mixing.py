"""Mixtures of pairs of samples within a batch: mixup and cutmix, with targets mixed alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from models.optimiser import Optimiser
from serving.inputs.spec import DataSpec

Pair = tuple[torch.Tensor, torch.Tensor]
Mixer = Callable[[torch.Tensor, torch.Tensor], Pair]


def build(settings: Optimiser, spec: DataSpec) -> Mixer | None:
    """What mixes canonical inputs (N, ...) and targets of a batch; None where nothing is asked for.

    Classes (N,) become shares (N, K), values (N, M) are averaged.

    Raises:
        ValueError: both mixtures are asked for, or one that does not suit the modality.
    """
    if settings.mixup and settings.cutmix:
        raise ValueError("train.mixup and train.cutmix exclude each other; set one of them to 0")
    if settings.cutmix and spec.modality != "image":
        raise ValueError(
            f"train.cutmix pastes parts of images, and this is {spec.modality} data; set it to 0"
        )
    if settings.mixup and spec.modality == "text":
        raise ValueError("train.mixup cannot blend the tokens of texts; set it to 0")
    if not settings.mixup and not settings.cutmix:
        return None
    blend = cutmix if settings.cutmix else {"table": rows}.get(spec.modality, mixup)
    alpha = settings.cutmix or settings.mixup
    numbers = len(spec.table.numbers) if spec.table else 0
    classes = len(spec.classes)

    def mix(inputs: torch.Tensor, targets: torch.Tensor) -> Pair:
        share = float(torch._sample_dirichlet(torch.full((2,), alpha, dtype=torch.float64))[0])
        other = torch.randperm(len(inputs)).to(inputs.device)
        mixed, share = blend(inputs, inputs[other], share, numbers)
        soft = F.one_hot(targets, classes).float() if classes else targets
        return mixed, share * soft + (1 - share) * soft[other]

    return mix


def mixup(first: torch.Tensor, second: torch.Tensor, share: float, _: int = 0) -> tuple[torch.Tensor, float]:
    """`share * first + (1 - share) * second`; after Zhang et al., "mixup" (2018).

    Where one of two series (N, T, C) has nothing, NaN, the other's value is taken: a blend is as long as the
    longer of both.
    """
    one, two = first.float(), second.float()
    mixed = share * one + (1 - share) * two
    if first.is_floating_point():
        mixed = torch.where(one.isnan(), two, torch.where(two.isnan(), one, mixed))
    return mixed, share


def rows(first: torch.Tensor, second: torch.Tensor, share: float, numbers: int) -> tuple[torch.Tensor, float]:
    """Rows (N, F + G) of tables: `numbers` are blended, categories and what is missing drawn from either."""
    mixed = share * first + (1 - share) * second
    drawn = torch.where(torch.rand_like(first) < share, first, second)
    drawn[:, :numbers] = torch.where(mixed[:, :numbers].isnan(), drawn[:, :numbers], mixed[:, :numbers])
    return drawn, share


def cutmix(first: torch.Tensor, second: torch.Tensor, share: float, _: int = 0) -> tuple[torch.Tensor, float]:
    """A rectangle of about `1 - share` of `second` in images (N, C, H, W) of `first`, and the share that is left.

    After Yun et al., "CutMix" (2019).
    """
    height, width = first.shape[2:]
    side = math.sqrt(1 - share)
    middle = torch.rand(2)
    top, bottom = edges(float(middle[0]), side, height)
    left, right = edges(float(middle[1]), side, width)
    mixed = first.clone()
    mixed[:, :, top:bottom, left:right] = second[:, :, top:bottom, left:right].to(first.dtype)
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def edges(middle: float, side: float, size: int) -> tuple[int, int]:
    """Where a stretch of a share `side` of `size` pixels around a middle begins and ends, cut at the border."""
    half = side * size / 2
    return max(0, round(middle * size - half)), min(size, round(middle * size + half))
