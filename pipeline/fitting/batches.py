"""Batches as index slices of whole columns: resident on the device, in memory, or memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import distributed

from pipeline.core.dataset import Dataset
from serving.inputs.ragged import Ragged, filling

Sampling = Literal["none", "over", "under"]
SHARE = 0.25  # of the free memory that a data set may take to be held there


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


class Column:
    """Rows of one column, wherever they fit: on the device, in memory, or as they are on disk.

    Ragged rows are held padded where that fits too, as batches are then mere slices.
    """

    def __init__(self, rows: Any, device: torch.device) -> None:
        self._device = device
        self._offsets, self._lengths = None, None
        values = rows.values if isinstance(rows, Ragged) else rows
        self._fill = filling(values.dtype)
        if isinstance(rows, Ragged):
            self._lengths = torch.from_numpy(rows.lengths)
            longest = int(rows.lengths.max(initial=1))
            size = len(rows) * longest * values[:1].nbytes
            if any(size < SHARE * _free_bytes(place) for place in (device, torch.device("cpu"))):
                values = rows.padded(self._fill)
            else:
                self._offsets = np.asarray(rows.offsets)
        self._values: torch.Tensor | np.ndarray = values
        for place in (device, torch.device("cpu")):
            if values.nbytes < SHARE * _free_bytes(place):
                self._values = torch.from_numpy(np.array(values)).to(place)
                break

    @property
    def on_disk(self) -> bool:
        """True where the rows are too many to be held."""
        return isinstance(self._values, np.ndarray)

    @property
    def place(self) -> torch.device:
        """Where the numbers of rows to take should lie."""
        return self._values.device if isinstance(self._values, torch.Tensor) else torch.device("cpu")

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """The rows (n, *shape) of some numbers; ragged ones padded at their end, (n, longest T, *shape)."""
        if self._offsets is not None:
            return self._gathered(index).to(self._device)
        taken = self._pick(index)
        if self._lengths is not None:
            taken = taken[:, : max(int(self._lengths[index.cpu()].max()), 1)].contiguous()
        return taken if taken.device == self._device else taken.to(self._device, non_blocking=True)

    def longest(self, count: int) -> torch.Tensor:
        """The numbers of so many rows, of unequal ones the longest."""
        rows = len(self._values) if self._lengths is None else len(self._lengths)
        if self._lengths is None:
            return torch.arange(min(count, rows), device=self.place)
        return self._lengths.argsort(descending=True, stable=True)[:count].to(self.place)

    def _gathered(self, index: torch.Tensor) -> torch.Tensor:
        """Ragged rows from where they lie one after the other."""
        assert self._offsets is not None
        rows = index.cpu().numpy()
        lengths = (self._offsets[rows + 1] - self._offsets[rows])[:, None]
        steps = np.arange(max(int(lengths.max()), 1))
        there = torch.from_numpy(steps < lengths)
        where = self._offsets[rows][:, None] + np.minimum(steps, np.maximum(lengths - 1, 0))
        taken = self._pick(torch.from_numpy(where).flatten())
        taken = taken.view(*where.shape, *taken.shape[1:])
        there = there.to(taken.device).view(*where.shape, *([1] * (taken.ndim - 2)))
        return taken.masked_fill(~there, self._fill)

    def _pick(self, index: torch.Tensor) -> torch.Tensor:
        if isinstance(self._values, torch.Tensor):
            return self._values[
                index if index.device == self._values.device else index.to(self._values.device)
            ]
        rows, back = np.unique(index.numpy(), return_inverse=True)  # read forwards on disk, then put in order
        return torch.from_numpy(self._values[rows])[torch.from_numpy(back)]


class Batches:
    """Iterates (inputs, targets) over a data set folder; inputs of unequal length are padded to the longest.
    `inputs` take the place of those in the folder, row by row.

    Lightning calls `set_epoch`, which it looks for on `batch_sampler`: the order of an epoch follows from the
    seed and the epoch's number alone, so a resumed run sees the batches of the undisturbed one. Of several processes
    (torch.distributed) each takes its share of that order, sampled or not; `counts` are those of all.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        device: torch.device,
        shuffle_seed: int | None = None,
        sampling: Sampling = "none",
        inputs: np.ndarray | None = None,
    ) -> None:
        dataset = Dataset(folder)
        self._inputs = Column(dataset.inputs if inputs is None else inputs, device)
        self._targets = torch.from_numpy(dataset.targets).to(device)
        self._size, self._seed, self.epoch = size, shuffle_seed, 0
        self.batch_sampler = self
        self.counts: torch.Tensor | None = None  # samples of each class (K,) that a pass shows
        self._classes: list[torch.Tensor] = []
        self.rows = len(self._targets)  # that a pass shows
        if classes := len(dataset.spec.classes):
            labels = torch.from_numpy(dataset.targets)
            self.counts = torch.bincount(labels, minlength=classes)
            if sampling != "none":
                self.counts = evened(self.counts, sampling)
                self._classes = [(labels == label).nonzero().flatten() for label in range(classes)]
                self.rows = int(self.counts.sum())

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(-(-self.rows // place()[1]), self._size)  # as many for every process
        # A last batch of one sample has no variance for batch normalisation: training leaves it out.
        return full + (rest > (self._seed is not None)) if full else 1

    def sizes(self) -> list[int]:
        """How many samples of this process each batch of a training pass has."""
        rows = -(-self.rows // place()[1])
        return [min(self._size, rows - at * self._size) for at in range(len(self))]

    def longest(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of so many of the longest rows, repeated where there are fewer."""
        rows = self._inputs.longest(count)
        rows = rows.repeat(-(-count // len(rows)))[:count]
        return self._inputs.take(rows), self._targets[rows.to(self._targets.device)]

    def share(self) -> torch.Tensor:
        """The rows of this pass for this process, in order: every so-many-th of `order`.

        In training the first rows are taken once more to make the shares equal; in validation no row is counted twice.

        Raises:
            ValueError: there are fewer rows than processes.
        """
        rank, world = place()
        order = self.order()
        if len(order) < world:
            raise ValueError(f"{len(order)} samples are too few for {world} processes")
        if world == 1:
            return order
        if self._seed is not None:
            order = torch.cat([order, order[: -len(order) % world]])
        return order[rank::world]

    def order(self) -> torch.Tensor:
        """The rows of this pass, in order."""
        if self._seed is None:
            return torch.arange(self.rows)
        generator = torch.Generator().manual_seed(self._seed * 100_003 + self.epoch)
        shuffled = torch.randperm(self.rows, generator=generator)
        if not self._classes:
            return shuffled
        assert self.counts is not None
        drawn = []
        for rows, count in zip(self._classes, self.counts.tolist(), strict=True):
            whole, rest = divmod(count, max(len(rows), 1))
            some = torch.randperm(len(rows), generator=generator)[:rest]
            drawn += [rows.repeat(whole), rows[some]]
        return torch.cat(drawn)[shuffled]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = self.share()
        here, there = order.to(self._inputs.place), order.to(self._targets.device)
        # Processes wait for each other at every batch, so each makes as many, of validation smaller ones if need be.
        sizes = [len(part) for part in here.split(self._size)]
        if self._seed is None and len(sizes) < len(self):
            sizes = [len(part) for part in here.tensor_split(len(self))]
        pairs = zip(here.split(sizes), there.split(sizes), strict=True)
        for _, (inputs, targets) in zip(range(len(self)), pairs, strict=False):
            yield self._inputs.take(inputs), self._targets[targets]


def place() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def evened(counts: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Counts (K,) of classes after sampling: those there are get as many as the largest, or the smallest.

    >>> evened(torch.tensor([90, 0, 10]), "over")
    tensor([90,  0, 90])
    """
    there = counts > 0
    size = counts.max() if sampling == "over" else counts[there].min()
    return torch.where(there, size, torch.zeros_like(counts))
