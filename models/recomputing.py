"""Activations that are computed again in the backward pass in place of being kept: less memory for more work.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016). A network runs its blocks by `through`; which of
them are computed again, `recompute` says. Draws are repeated, and running statistics count a batch once, so that the
weights are those of a plain training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.checkpoint import checkpoint

MARK = "recomputed"


def through(block: nn.Module, *given: Any) -> Any:
    """What a block makes of its input; of one that is marked the input alone is kept for the backward pass."""
    if not (getattr(block, MARK, False) and torch.is_grad_enabled()):
        return block(*given)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _counted(block)

    return checkpoint(block, *given, use_reentrant=False, context_fn=contexts)


class Block(nn.Module):
    """A part of a network that `recompute` marks."""


class Chain(nn.Sequential):
    """Layers in a row, of which those from one with weights up to the next are a block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run them in order."""
        if not getattr(self, MARK, False):
            return super().forward(x)
        for part in self._parts():
            x = through(part, x)
        return x

    def _parts(self) -> list[nn.Module]:
        parts: list[list[nn.Module]] = [[]]
        for layer in self:
            if isinstance(layer, nn.Linear | _ConvNd | Block) and parts[-1]:
                parts.append([])
            parts[-1].append(layer)
        found: list[nn.Module] = [nn.Sequential(*part) for part in parts]
        for part in found:
            setattr(part, MARK, True)
        return found


def recompute(net: nn.Module, marked: bool = True) -> int:
    """Mark the blocks and chains of a network, or take the marks away; says how many there are."""
    blocks = [module for module in net.modules() if isinstance(module, Block | Chain)]
    for block in blocks:
        setattr(block, MARK, marked)
    return len(blocks)


@contextmanager
def _counted(block: nn.Module) -> Iterator[None]:
    """Normalise a batch once more without counting it once more in the running statistics."""
    norms = [each for each in block.modules() if isinstance(each, _NormBase)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, before, strict=True):
        norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
