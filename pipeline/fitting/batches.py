"""Batches as index slices of whole columns: resident on the device, in memory, or memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import torch

from pipeline.core.dataset import Dataset

SHARE = 0.25  # of the free memory that a data set may take to be held there


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _hold(column: np.ndarray, device: torch.device) -> torch.Tensor | np.ndarray:
    """The column on the device, else in memory, else as it is on disk, by what fits."""
    for place in (device, torch.device("cpu")):
        if column.nbytes < SHARE * _free_bytes(place):
            return torch.from_numpy(np.array(column)).to(place)
    return column


class Batches:
    """Iterates (inputs (n, *shape), targets (n,)) over a data set folder.

    Lightning calls `set_epoch`, which it looks for on `batch_sampler`: the order of an epoch follows from the
    seed and the epoch's number alone, so a resumed run sees the batches of the undisturbed one.
    """

    def __init__(
        self, folder: Path, size: int, device: torch.device, shuffle_seed: int | None = None
    ) -> None:
        dataset = Dataset(folder)
        self._inputs = _hold(dataset.column(dataset.spec.input.name), device)
        self._targets = torch.from_numpy(np.array(dataset.column("label"))).to(device)
        self._size, self._seed, self._device, self.epoch = size, shuffle_seed, device, 0
        self.batch_sampler = self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self._targets), self._size)
        # A last batch of one sample has no variance for batch normalisation: training leaves it out.
        return full + (rest > (self._seed is not None)) if full else 1

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.arange(len(self._targets))
        if self._seed is not None:
            generator = torch.Generator().manual_seed(self._seed * 100_003 + self.epoch)
            order = torch.randperm(len(self._targets), generator=generator)
        order = order if isinstance(self._inputs, np.ndarray) else order.to(self._targets.device)
        for at in range(len(self)):
            index = order[at * self._size : (at + 1) * self._size]
            yield self._take(index), self._targets[index.to(self._targets.device)]

    def _take(self, index: torch.Tensor) -> torch.Tensor:
        if isinstance(self._inputs, torch.Tensor):
            return self._inputs[index.to(self._inputs.device)].to(self._device, non_blocking=True)
        rows = np.sort(index.numpy())  # read forwards on disk, then put back in order
        taken = torch.from_numpy(self._inputs[rows])
        return taken[torch.from_numpy(np.searchsorted(rows, index.numpy()))].to(self._device)
