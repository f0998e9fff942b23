"""The group of processes that train one model together: who this one is, and what Lightning is told of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

PATIENCE = timedelta(hours=2)  # that processes wait for each other, as when one alone computes features


@dataclass(frozen=True)
class Place:
    """One process of a group: its number of all, and of those on its machine.

    Args:
        local: its number on its machine, which is that of its GPU; there are `locals` of them.
        node: the number of its machine.
    """

    rank: int
    world: int
    local: int
    locals: int
    node: int = 0

    def environment(self) -> dict[str, str]:
        """What torchrun would tell the process."""
        return {
            "RANK": str(self.rank), "WORLD_SIZE": str(self.world), "LOCAL_RANK": str(self.local),
            "LOCAL_WORLD_SIZE": str(self.locals), "GROUP_RANK": str(self.node),
        }  # fmt: skip


@contextmanager
def joined(place: Place, device: torch.device, **meeting: Any) -> Iterator[None]:
    """Belong to a group, gloo on CPUs and NCCL on GPUs; a group that exists already is taken as it is.

    Args:
        meeting: where the processes meet, as `init_process_group` takes it: `init_method` or `store`.
    """
    os.environ |= place.environment()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ours = not distributed.is_initialized()
    if ours:
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(
            backend, rank=place.rank, world_size=place.world, timeout=PATIENCE, **meeting
        )
    try:
        yield
    finally:
        if ours:
            distributed.destroy_process_group()
