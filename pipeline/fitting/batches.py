"""Batches as index slices of whole columns: resident on the device, in memory, or memory-mapped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch

from models.together import locals_here, place
from pipeline.core.dataset import Dataset
from pipeline.fitting.secret import Secret
from serving.inputs.ragged import Ragged, filling

Sampling = Literal["none", "over", "under"]
SHARE = 0.25  # of the free memory that a data set may take to be held there


def _free_bytes(device: torch.device) -> int:
    """Of a device, or of this process's share of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available) // locals_here()


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
            if any(size < SHARE * _free_bytes(where) for where in (device, torch.device("cpu"))):
                values = rows.padded(self._fill)
            else:
                self._offsets = np.asarray(rows.offsets)
        self._values: torch.Tensor | np.ndarray = values
        for where in (device, torch.device("cpu")):
            if values.nbytes < SHARE * _free_bytes(where):
                self._values = torch.from_numpy(np.array(values)).to(where)
                break

    @property
    def on_disk(self) -> bool:
        """True where the rows are too many to be held."""
        return isinstance(self._values, np.ndarray)

    @property
    def place(self) -> torch.device:
        """Where the numbers of rows to take should lie."""
        return self._values.device if isinstance(self._values, torch.Tensor) else torch.device("cpu")

    def take(self, index: torch.Tensor, among: torch.Tensor | None = None) -> torch.Tensor:
        """The rows (n, *shape) of some numbers; ragged ones padded at their end, (n, longest T, *shape).

        The longest is that of the rows `among` which they are, so that several processes see one length.
        """
        longest = 1
        if self._lengths is not None:
            longest = max(int(self._lengths[(index if among is None else among).cpu()].max()), 1)
        if self._offsets is not None:
            return self._gathered(index, longest).to(self._device)
        taken = self._pick(index)
        if self._lengths is not None:
            taken = taken[:, :longest].contiguous()
        return taken if taken.device == self._device else taken.to(self._device, non_blocking=True)

    def longest(self, count: int) -> torch.Tensor:
        """The numbers of so many rows, of unequal ones the longest."""
        rows = len(self._values) if self._lengths is None else len(self._lengths)
        if self._lengths is None:
            return torch.arange(min(count, rows), device=self.place)
        return self._lengths.argsort(descending=True, stable=True)[:count].to(self.place)

    def _gathered(self, index: torch.Tensor, longest: int) -> torch.Tensor:
        """Ragged rows from where they lie one after the other."""
        assert self._offsets is not None
        rows = index.cpu().numpy()
        lengths = (self._offsets[rows + 1] - self._offsets[rows])[:, None]
        steps = np.arange(longest)
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
    `inputs` take the place of those in the folder, row by row. With a `secret`, each row is in each batch with the same
    chance, whatever else is in it (Poisson sampling, which the accounting of privacy supposes); some batches are empty.

    Lightning calls `set_epoch`, which it looks for on `batch_sampler`: the order of an epoch follows from the
    seed and the epoch's number alone, so a resumed run sees the batches of the undisturbed one. Of several processes
    (torch.distributed) each takes its share of every batch, sampled or not; `size` is that of a batch of training of
    all of them, and of one process's of validation; `counts` are those of all.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        device: torch.device,
        shuffle_seed: int | None = None,
        sampling: Sampling = "none",
        inputs: np.ndarray | None = None,
        secret: Secret | None = None,
    ) -> None:
        dataset = Dataset(folder)
        self._inputs = Column(dataset.inputs if inputs is None else inputs, device)
        self._targets = torch.from_numpy(dataset.targets).to(device)
        self.size, self._seed, self.epoch, self._secret = size, shuffle_seed, 0, secret
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

    @property
    def rate(self) -> float:
        """The chance of a row to be in a batch."""
        return min(self.size / self.rows, 1.0)

    def __len__(self) -> int:
        if self._secret is not None:
            return max(1, round(1 / self.rate))
        full, rest = divmod(self.rows, self._together)
        return full + (rest >= self._least) if full else 1

    @property
    def _together(self) -> int:
        """Samples in a full batch of all processes."""
        return self.size * (1 if self._seed is not None else place()[1])

    def sizes(self) -> list[int]:
        """How many samples, of all processes together, each batch of a training pass has."""
        return [min(self.size, self.rows - at * self.size) for at in range(len(self))]

    def longest(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of so many of the longest rows, repeated where there are fewer."""
        rows = self._inputs.longest(count)
        rows = rows.repeat(-(-count // len(rows)))[:count]
        return self._inputs.take(rows), self._targets[rows.to(self._targets.device)]

    @property
    def _least(self) -> int:
        """Samples that make a last batch, so that each process has one of them.

        Fewer go to the batch before; training leaves them out, as one sample has no variance for batch normalisation.
        """
        return max(place()[1], 2 if self._seed is not None else 1)

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

    def _drawn(self, secret: Secret) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for step in range(len(self)):
            chances = secret.generator("batch", self.epoch, step).random(self.rows)
            rows = torch.from_numpy(np.flatnonzero(chances < self.rate))
            taken = rows if len(rows) else torch.zeros(1, dtype=torch.int64)
            inputs, targets = (
                self._inputs.take(taken.to(self._inputs.place)),
                self._targets[taken.to(self._targets.device)],
            )
            yield inputs[: len(rows)], targets[: len(rows)]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self._secret is not None:
            yield from self._drawn(self._secret)
            return
        order = self.order()
        here, there = order.to(self._inputs.place), order.to(self._targets.device)
        rank, world = place()
        for start, end in itertools.pairwise(self._bounds()):
            mine = slice(start + rank, end, world)
            yield self._inputs.take(here[mine], here[start:end]), self._targets[there[mine]]

    def _bounds(self) -> list[int]:
        """Where the batches of all processes begin in the order of this pass, and where the last one ends.

        Raises:
            ValueError: there are fewer rows than processes.
        """
        if self.rows < place()[1]:
            raise ValueError(f"{self.rows} samples are too few for {place()[1]} processes")
        begin = [at * self._together for at in range(len(self))]
        end = self.rows if self._seed is None else min(self.rows, begin[-1] + self._together)
        return [*begin, end]


def evened(counts: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Counts (K,) of classes after sampling: those there are get as many as the largest, or the smallest.

    >>> evened(torch.tensor([90, 0, 10]), "over")
    tensor([90,  0, 90])
    """
    there = counts > 0
    size = counts.max() if sampling == "over" else counts[there].min()
    return torch.where(there, size, torch.zeros_like(counts))
