"""Several processes that train one model together: started here, or by torchrun, srun or Ray.

`fit_together` is `fit` for a job with `compute.processes`; `member` is what each process of the group runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

from models.served import Served
from pipeline.fitting.epochlog import EpochHook
from pipeline.fitting.fit import Job, fit
from pipeline.fitting.groups import Place

Tell = Callable[[Any], None]  # sends what the first process knows to where MLflow is written, in order


def fit_together(
    job: Job,
    hooks: list[EpochHook],
    checkpoints: Path | None = None,
    callbacks: list[Callback] | None = None,
) -> Served:
    """As `fit`, by `job.compute.processes` processes, which this one starts and ends; one is this process.

    Hooks are called here. So are those of a callback (`callback.hooks`); what else it holds is sent to the processes, and
    comes back from the first as it is in the end.

    Raises:
        UserError: a process died, or the job does not suit so many.
    """
    if job.compute.processes == 1:
        return fit(job, hooks, checkpoints, callbacks)
    raise NotImplementedError


def member(
    job: Job,
    place: Place,
    tell: Tell,
    checkpoints: Path | None = None,
    callbacks: list[Callback] | None = None,
    **meeting: Any,
) -> None:
    """One process of a group, on the device that suits its place.

    All of them are given the same; the first tells each epoch, and in the end its weights: `Told.take` understands it.
    A process group that exists already (Ray Train's) is taken as it is; otherwise `meeting` says where processes meet
    (`init_method` or `store`, as `init_process_group` takes them).
    """
    raise NotImplementedError


class Told:
    """Takes what the first process of a group tells: calls hooks, keeps callbacks up to date, and holds the weights."""

    def __init__(self, job: Job, hooks: list[EpochHook], callbacks: list[Callback] | None = None) -> None:
        self.job, self.hooks, self.callbacks = job, hooks, callbacks or []

    def take(self, message: Any) -> None:
        """Take one message; messages come in the order in which they were told."""
        raise NotImplementedError

    @property
    def served(self) -> Served:
        """The network with its final weights, as `fit` gives it; told last."""
        raise NotImplementedError
