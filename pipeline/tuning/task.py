"""What coordinator and workers tell each other of a trial; light, so that a worker loads only what its work needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.fitting.space import Plain

if TYPE_CHECKING:
    from pipeline.fitting.settings import Job

METRIC = "val_loss"


@dataclass(frozen=True)
class Task:
    """What a worker needs.

    Args:
        number: of the trial, in its study.
        jobs: what to fit, with the trial's values: one for each fold, or one.
        folder: its own, for checkpoints; what is found there is gone on with.
        pruned: ask after each epoch whether to end.
        values: of the trial, by the keys of the space; the jobs have them already.
        most: weights of a network; one of more is not fitted at all; 0 is any number.
        timed: measure how long an answer takes.
        losses: keep the validation loss of each sample in the folder.
    """

    number: int
    jobs: tuple[Job, ...]
    folder: Path
    pruned: bool = True
    values: Plain = field(default_factory=dict)
    most: int = 0
    timed: bool = False
    losses: bool = False

    def losses_of(self, fold: int) -> Path:
        """Where the losses of a fold's validation samples are kept."""
        return self.folder / f"losses-{fold}.npy"


@dataclass(frozen=True)
class Report:
    """What a task tells of an epoch; the answer is True where the trial is to end.

    `seconds` and `joules` were spent since the report before.
    """

    fold: int
    epoch: int
    metrics: dict[str, float]
    seconds: float
    joules: float


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: its measures (`val_loss`, `parameters`, ...), or why there are none."""

    state: Literal["complete", "pruned", "failed"]
    measures: dict[str, float] = field(default_factory=dict)
    reason: str = ""
