"""What a frozen trunk makes of a split, computed once for all trials and the training: `.fairlead/features/`.

Where nothing in the loop comes before the trunk, its features of a sample never change, and the head learns from them.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from models.served import Served
from models.transfer import TRUNKS, Transfer
from pipeline.core.dataset import Dataset
from pipeline.core.stage import STATE
from pipeline.fitting.batches import Column
from pipeline.fitting.lineage import data_digest, digest
from serving.inputs.ragged import Ragged

FOLDER = STATE / "features"
BATCH = 64  # samples that go through the trunk at once


def fixed(served: Served, augment: nn.Module, mixes: bool, unfreeze: int) -> bool:
    """True where the trunk is frozen for good and is given the same in every epoch."""
    given_same = isinstance(augment, nn.Identity) and not mixes
    return isinstance(served.net, Transfer) and not unfreeze and given_same


def features(served: Served, folder: Path, device: torch.device) -> np.ndarray:
    """The trunk's features (N, F) float32 of a data set folder, memory-mapped; made where they are missing."""
    assert isinstance(served.net, Transfer)
    path = FOLDER / f"{_key(served.net, folder)}.npy"
    if not _whole(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.new")
        try:
            _compute(served.to(device).eval(), folder, device, fresh)
            note = fresh.with_suffix(".sum")
            note.write_text(_sum(fresh))
            fresh.replace(path)
            note.replace(_note(path))  # last: what has no right sum is made anew
        finally:
            fresh.unlink(missing_ok=True)
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _key(net: Transfer, folder: Path) -> str:
    """Names the samples, the weights, and the code that computes."""
    trunk = TRUNKS[net.modality]
    code = Path(inspect.getfile(type(net.trunk))).read_bytes()
    return digest(data_digest(folder), trunk.weights.sha256, hashlib.sha256(code).hexdigest())


def _note(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _whole(path: Path) -> bool:
    """True where a file is what was once written; it is read once by a process, as trials come back to it."""
    if not path.exists() or not _note(path).exists():
        return False
    about = path.stat()
    return _matches(path, _note(path).read_text(), about.st_size, about.st_mtime_ns)


@functools.cache
def _matches(path: Path, expected: str, size: int, changed: int) -> bool:
    del size, changed  # by which a file that was changed is read again
    return _sum(path) == expected


@torch.inference_mode()
def _compute(served: Served, folder: Path, device: torch.device, path: Path) -> None:
    """Write the features of all rows; those of one length go together, as padding costs what samples cost."""
    net = served.net
    assert isinstance(net, Transfer)
    given = Dataset(folder).inputs
    rows, count = Column(given, device), len(given)
    lengths = given.lengths if isinstance(given, Ragged) else np.zeros(count)
    order = torch.from_numpy(np.argsort(lengths, kind="stable"))
    shape = (count, int(net.trunk.features))  # type: ignore[arg-type]
    found = np.lib.format.open_memmap(path, "w+", "<f4", shape)
    with tqdm(total=count, desc=f"features of {folder.name}", unit=" samples") as bar:
        for part in order.split(BATCH):
            found[part.numpy()] = served.features(rows.take(part.to(rows.place))).float().cpu().numpy()
            bar.update(len(part))
    found.flush()
