"""One batch that several processes share: its sums, its normalisation, and what is drawn for it.

Batch normalisation over all processes is that of Ioffe and Szegedy, "Batch Normalization" (2015), over the whole batch;
torch's own `SyncBatchNorm` takes no tensors of CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import distributed, nn


def place() -> tuple[int, int]:
    """The number of this process, and how many train together."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def locals_here() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if place()[1] > 1 else 1


def everyone(value: torch.Tensor) -> list[torch.Tensor]:
    """What each process gives, in order, on the device of this one's; shapes may differ. It has no gradient."""
    if place()[1] == 1:
        return [value]
    found: list[Any] = [None] * place()[1]
    distributed.all_gather_object(found, value.detach().cpu())
    return [part.to(value.device) for part in found]


def interleaved(parts: list[torch.Tensor]) -> torch.Tensor:
    """The rows of shares `[rank::world]`, in the order of the whole.

    >>> interleaved([torch.tensor([0, 2, 4]), torch.tensor([1, 3])]).tolist()
    [0, 1, 2, 3, 4]
    """
    whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def gathered(share: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` rows of the whole of which this process has `[rank::world]`, in their order; without a gradient."""
    world = place()[1]
    if world == 1:
        return share
    most = -(-count // world)
    padded = share.new_zeros((most, *share.shape[1:]))
    padded[: len(share)] = share
    parts = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(parts, padded)
    return torch.stack(parts, 1).flatten(0, 1)[:count]


_whole: ContextVar[int] = ContextVar("whole")


@contextmanager
def rows_of(count: int) -> Iterator[None]:
    """Within, `drawn` takes this process's rows of a whole batch of so many."""
    token = _whole.set(count)
    try:
        yield
    finally:
        _whole.reset(token)


def drawn(draw: Callable[[int], torch.Tensor], rows: int) -> torch.Tensor:
    """What `draw` gives for so many rows; of several processes each draws for the whole batch and takes its own."""
    rank, world = place()
    return draw(rows) if world == 1 else draw(_whole.get())[rank::world]


class _Summed(torch.autograd.Function):
    """A sum over processes whose gradient is the sum of theirs, as each process's loss is a share of one loss."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        del ctx
        return _added(value)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        del ctx
        return _added(slope)


def _added(value: torch.Tensor) -> torch.Tensor:
    total = value.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, of the same shape, through which gradients flow."""
    found: torch.Tensor = _Summed.apply(value) if place()[1] > 1 else value  # type: ignore[no-untyped-call]
    return found


class _Synchronised(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation whose moments in training are those of the batches of all processes, sizes as they are."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (N, C) or (N, C, ...) to the same shape."""
        if not self.training or place()[1] == 1:
            return super().forward(input)
        x = input.float()
        over = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = x.numel() // x.shape[1]
        totals = summed(torch.cat([x.sum(over), x.new_tensor([count])]))
        mean = totals[:-1] / totals[-1]
        off = x - mean.view(shape)
        variance = summed(off.square().sum(over)) / totals[-1]
        self._remember(mean.detach(), variance.detach() * totals[-1] / (totals[-1] - 1).clamp(min=1))
        scale = self.weight * (variance + self.eps).rsqrt()
        out: torch.Tensor = off * scale.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Synchronised1d(_Synchronised, nn.BatchNorm1d):
    """Of (N, C) or (N, C, L)."""


class _Synchronised2d(_Synchronised, nn.BatchNorm2d):
    """Of (N, C, H, W)."""


NORMALISATIONS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _Synchronised1d, nn.BatchNorm2d: _Synchronised2d,
}  # fmt: skip
ALONE = {synchronised: plain for plain, synchronised in NORMALISATIONS.items()}


def synchronise(net: nn.Module, device: torch.device) -> None:
    """Let the batch normalisations of a network see the batches of all processes; `separate` takes it back.

    The class of a module is changed in place: parameters, their names and whoever holds the module stay the same.
    """
    if place()[1] == 1:
        return
    for module in net.modules():
        if type(module) in NORMALISATIONS:
            if device.type == "cuda":  # torch's is fused, and right for GPUs alone
                module.plain, module.process_group = type(module), distributed.group.WORLD  # type: ignore[assignment]
                module.__class__ = nn.SyncBatchNorm
            else:
                module.__class__ = NORMALISATIONS[type(module)]


def separate(net: nn.Module) -> None:
    """Take back what `synchronise` did."""
    for module in net.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = module.plain  # type: ignore[assignment]
            del module.plain, module.process_group
        elif type(module) in ALONE:
            module.__class__ = ALONE[type(module)]


@contextmanager
def own_draws(seed: int) -> Iterator[None]:
    """Within, this process draws what no other draws; without, all draw alike and each takes its rows."""
    rank, world = place()
    if world == 1:
        yield
        return
    shared = torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    torch.manual_seed((seed * world + rank) % 2**63)
    try:
        yield
    finally:
        torch.set_rng_state(shared)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)
