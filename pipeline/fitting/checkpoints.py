"""Checkpoints of a training: the last, to go on from after a kill, and the best, whose weights are the model."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import is_zipfile

import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from models.tasks import Supervised


class Checkpoints:
    """`last.ckpt` and, where it is asked for, `best.ckpt` of a folder, written at the end of every epoch."""

    def __init__(self, folder: Path, best: bool = True) -> None:
        self.folder = folder
        self.best: ModelCheckpoint | None = None
        if best:
            self.best = ModelCheckpoint(
                folder, "best", "val_loss", enable_version_counter=False, save_on_train_epoch_end=True
            )
        self.last = ModelCheckpoint(
            folder, "last", enable_version_counter=False, save_on_train_epoch_end=True
        )

    @property
    def callbacks(self) -> list[Callback]:
        """What writes them."""
        return [self.best, self.last] if self.best else [self.last]

    @property
    def resume(self) -> str | None:
        """What to go on from; None where nothing was written yet."""
        path = self.folder / "last.ckpt"
        return str(path) if path.is_dir() or readable(path) else None

    def restore(self, task: Supervised) -> None:
        """Put the weights of the lowest validation loss into the task, where they are kept."""
        if self.best is None:
            return
        state = torch.load(self.best.best_model_path, map_location="cpu", weights_only=True)
        task.load_state_dict(state["state_dict"])


def readable(path: Path) -> bool:
    """True for a checkpoint that can be gone on from; one that is damaged is told, and taken for none."""
    if path.exists() and not is_zipfile(path):  # whose table of contents comes last, so what was cut is none
        print(f"{path} is damaged; this training begins anew", file=sys.stderr, flush=True)
        return False
    return path.exists()
