"""A data set that fits lies on the device: no batch is copied to it, and transforms take whole batches there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.fitting import assembly
from pipeline.fitting.batches import Batches
from pipeline.fitting.fit import fit
from tests.small import blobs, table_job

pytestmark = pytest.mark.usefixtures("one_thread")
ELSEWHERE = torch.device("meta")  # another device than the CPU, which any machine has


class Copies(TorchDispatchMode):
    """Counts tensors that go from one device to another, by how many values they have."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = next((each for each in args if isinstance(each, torch.Tensor)), None)
        if isinstance(out, torch.Tensor) and given is not None and out.device != given.device:
            self.seen[out.numel()] += 1
        return out


def test_an_epoch_copies_its_order_and_no_batch(tmp_path: Path) -> None:
    table_job(tmp_path, blobs(200, 0), blobs(40, 1), {})
    batches = Batches(tmp_path / "train", 16, ELSEWHERE, 1)
    with Copies() as copies:
        seen = list(batches)
    assert len(seen) == 13
    assert {tensor.device for batch in seen for tensor in batch} == {ELSEWHERE}
    assert set(copies.seen) == {200}, "the order alone"
    assert copies.seen[200] <= 2
    resident = Batches(tmp_path / "train", 16, torch.device("cpu"), 1)
    with Copies() as copies:
        moved = [inputs.to(ELSEWHERE) for inputs, _ in resident]
    assert sum(copies.seen.values()) == len(moved) == 13, "the count can tell"


class Seen(Callback):
    """Where the tensors lie that a step is given."""

    def __init__(self) -> None:
        self.places: list[int] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.places.append(batch[0].data_ptr())


def test_the_loop_hands_on_what_the_batches_give_and_transforms_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very memory, in one call of the transform a batch."""
    given: list[int] = []
    kept: list[torch.Tensor] = []
    sizes: list[int] = []

    class Noting(Batches):
        def __iter__(self) -> Any:
            for inputs, targets in super().__iter__():
                if self._seed is not None:
                    kept.append(inputs)  # so that no later batch lies at the same place
                    given.append(inputs.data_ptr())
                yield inputs, targets

    class Whole(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            sizes.append(len(inputs))
            return inputs

    monkeypatch.setattr(assembly, "Batches", Noting)
    monkeypatch.setattr(assembly, "build_augmentation", lambda *_: Whole())
    seen = Seen()
    fit(
        table_job(tmp_path, blobs(200, 0), blobs(40, 1), {"max_epochs": 2, "batch_size": 16}),
        [],
        callbacks=[seen],
    )
    assert seen.places == given
    assert sizes == 2 * [*[16] * 12, 8]
