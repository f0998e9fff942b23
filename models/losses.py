"""Losses: cross-entropy and its kin over classes, squared and Huber errors over values, and the L1 penalty."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from models.optimiser import Optimiser


def balanced(counts: torch.Tensor) -> torch.Tensor:
    """Weights (K,) float32 inverse to the counts (K,) of classes, 1 on average over samples.

    A class that training does not hold weighs nothing.

    >>> balanced(torch.tensor([90, 10]))
    tensor([0.5556, 5.0000])
    """
    there = counts > 0
    weights = counts.sum() / (there.sum() * counts.clamp(min=1))
    return torch.where(there, weights, torch.zeros_like(weights)).float()


def classification(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
    focal: float = 0.0,
) -> torch.Tensor:
    """The mean loss of logits (N, K) for classes (N,), or for shares of classes (N, K).

    With `focal` above 0, the focal loss of Lin et al., "Focal Loss for Dense Object Detection" (2017), over
    softmax probabilities; weights and smoothing are those of `cross_entropy`.
    """
    if not focal:
        return F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)
    classes = logits.shape[1]
    shares = F.one_hot(targets, classes).to(logits.dtype) if targets.ndim == 1 else targets
    total: torch.Tensor | int = len(targets)
    if weights is not None and targets.ndim == 1:
        total = weights[targets].sum()
    shares = shares * (1 - smoothing) + smoothing / classes
    logs = logits.log_softmax(dim=1)
    doubt = (-torch.expm1(logs)).clamp(min=1e-7) ** focal  # clamped: roots have no slope at 0
    losses = -shares * doubt * logs
    if weights is not None:
        losses = losses * weights
    return losses.sum() / total


def regression(values: torch.Tensor, targets: torch.Tensor, huber: float = 0.0) -> torch.Tensor:
    """The mean loss of scaled values (N, M): squared errors, or Huber's (1964), twice his for the same slope.

    Errors up to `huber` are squared in both.
    """
    if not huber:
        return F.mse_loss(values, targets)
    return 2 * F.huber_loss(values, targets, delta=huber)


def each(out: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The plain loss of every sample (N,): cross-entropy of logits (N, K), or the squared error of values (N, M).

    >>> each(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([0.6931])
    """
    if targets.dtype == torch.int64:
        return F.cross_entropy(out, targets, reduction="none")
    return (out - targets).square().flatten(1).mean(1)


def l1(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of absolute weights; biases and scales, of one dimension, are left alone."""
    return torch.stack([weight.abs().sum() for weight in parameters if weight.ndim > 1]).sum()


class Loss:
    """The loss that training minimises, by the section `train`, and the plain one that validation reports.

    The plain one is cross-entropy or squared error whatever is asked for, so that runs can be compared.
    """

    def __init__(self, settings: Optimiser, classifies: bool, counts: torch.Tensor | None = None) -> None:
        self._settings, self._classifies, self.counts = settings, classifies, counts
        weighted = counts is not None and settings.class_weights == "balanced"
        self._weights = balanced(counts) if weighted and counts is not None else None

    def training(self, out: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of logits (N, K), or of scaled values (N, M), without the L1 penalty."""
        given = self._settings
        if not self._classifies:
            return regression(out, targets, given.huber)
        if self._weights is not None and self._weights.device != out.device:
            self._weights = self._weights.to(out.device)
        return classification(out, targets, self._weights, given.label_smoothing, given.focal)

    def mass(self, targets: torch.Tensor) -> torch.Tensor | int:
        """What the mean of `training` divides by: the samples, or the weights of their classes (N,)."""
        if self._weights is None or targets.ndim > 1:
            return len(targets)
        return self._weights.to(targets.device)[targets].sum()

    def plain(self, out: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of logits (N, K), or the squared error of scaled values (N, M)."""
        return classification(out, targets) if self._classifies else regression(out, targets)


def guessing(settings: Optimiser, counts: torch.Tensor | None) -> tuple[float, float]:
    """What a model without inputs loses in training, and in validation: it knows the classes' counts (K,), or means.

    >>> [round(loss, 4) for loss in guessing(Optimiser(label_smoothing=0), torch.tensor([5, 5]))]
    [0.6931, 0.6931]
    """
    if counts is None:
        return min(1.0, 1.6 * settings.huber or 1.0), 1.0  # of scaled, about normal targets
    shares = (counts / counts.sum()).double()
    weights = balanced(counts).double() if settings.class_weights == "balanced" else None
    guess = shares if weights is None else shares * weights
    guess = guess / guess.sum() * (1 - settings.label_smoothing) + settings.label_smoothing / len(counts)
    logits = guess.clamp(min=1e-9).log()[None]
    training = classification(logits, shares[None], weights, settings.label_smoothing, settings.focal)
    plain = classification(shares.clamp(min=1e-9).log()[None], shares[None])
    return float(training), float(plain)
