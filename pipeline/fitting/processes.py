"""Several processes that train one model together: started here, or by torchrun, srun or Ray.

`fit_together` is `fit` for a job with `compute.processes`; `member` is what each process of the group runs.
"""

from __future__ import annotations

import copy
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback
from torch import distributed

from models.served import Served
from pipeline.engine.companions import Tell, run_all
from pipeline.fitting.epochlog import EpochHook
from pipeline.fitting.fit import Job, fit
from pipeline.fitting.groups import Place, check, joined, launched, loopback
from pipeline.fitting.trainer import device_of


def fit_together(
    job: Job,
    hooks: list[EpochHook],
    checkpoints: Path | None = None,
    callbacks: list[Callback] | None = None,
) -> Served:
    """As `fit`, by `job.compute.processes` processes, which this one starts and ends; one is this process.

    Hooks are called here. So are those of a callback (`callback.hooks`); what else it holds, plain data, is sent to
    the processes, and comes back from the first as it is in the end. Under torchrun or srun the processes are those
    which it started, and this one is the first of them: the others `follow`.

    Raises:
        UserError: a process was killed, or the job does not suit so many.
    """
    if place := launched():
        check(job, place.world, place.locals)
        with joined(place, _device(job, place)):
            distributed.broadcast_object_list([(job, checkpoints, Told(job, [], callbacks).sent)])
            return fit(job, hooks, checkpoints, callbacks)
    world = job.compute.processes
    if world == 1:
        return fit(job, hooks, checkpoints, callbacks)
    if job.compute.engine == "ray":
        from pipeline.engine.ray_train import fit_on_ray

        return fit_on_ray(job, hooks, checkpoints, callbacks)
    check(job, world, world)
    told = Told(job, hooks, callbacks)
    with tempfile.TemporaryDirectory() as meeting:
        given = job, checkpoints, told.sent, Path(meeting) / "store"
        run_all(_spawned, [(Place(rank, world, rank, world), *given) for rank in range(world)], told.take)
    return told.served


def follows() -> bool:
    """True in the processes that torchrun or srun started, but the first."""
    place = launched()
    return place is not None and place.rank > 0


def follow() -> None:
    """Train as one of the processes that torchrun or srun started, but the first, which says what."""
    place = launched()
    assert place is not None
    given: list[Any] = [None]
    device = torch.device("cuda", place.local) if torch.cuda.is_available() else torch.device("cpu")
    with joined(place, device):
        distributed.broadcast_object_list(given)
        job, checkpoints, callbacks = given[0]
        fit(job, [], checkpoints, callbacks)


def member(
    job: Job,
    place: Place,
    tell: Tell,
    checkpoints: Path | None = None,
    callbacks: list[Callback] | None = None,
    **meeting: Any,
) -> None:
    """One process of a group, on the device that suits its place.

    All of them are given the same (callbacks are `Told.sent`); the first tells each epoch, and in the end its
    weights: `Told.take` understands it. A process group that exists already (Ray Train's) is taken as it is;
    otherwise `meeting` says where processes meet (`init_method` or `store`, as `init_process_group` takes them).
    """
    hooks: list[EpochHook] = [lambda *epoch: tell(("epoch", *epoch))]
    own = [
        vars(callback).keys() - {"hooks"} for callback in callbacks or []
    ]  # Lightning adds methods of the task
    for at, callback in enumerate(callbacks or []):
        callback.hooks = [_teller(tell, at)] if place.rank == 0 else []  # type: ignore[attr-defined]
    with joined(place, _device(job, place), **meeting):
        served = fit(job, hooks if place.rank == 0 else [], checkpoints, callbacks)
        if place.rank == 0:
            weights = io.BytesIO()
            torch.save(served.state_dict(), weights)
            states = [
                {name: vars(each)[name] for name in names}
                for each, names in zip(callbacks or [], own, strict=True)
            ]
            tell(("end", states, weights.getvalue()))


class Told:
    """Takes what the first process of a group tells: calls hooks, fills callbacks, and holds the final weights."""

    def __init__(self, job: Job, hooks: list[EpochHook], callbacks: list[Callback] | None = None) -> None:
        self.job, self.hooks, self.callbacks = job, hooks, callbacks or []
        self._weights: bytes | None = None

    @property
    def sent(self) -> list[Callback]:
        """The callbacks as they are sent to processes: without their hooks."""
        copies = [copy.copy(callback) for callback in self.callbacks]
        for callback in copies:
            callback.hooks = []  # type: ignore[attr-defined]
        return copies

    def take(self, message: Any) -> None:
        """Take one message; messages come in the order in which they were told."""
        kind, *rest = message
        if kind == "epoch":
            for hook in self.hooks:
                hook(*rest)
        elif kind == "callback":
            for hook in self.callbacks[rest[0]].hooks:  # type: ignore[attr-defined]
                hook(*rest[1:])
        else:
            states, self._weights = rest
            for callback, state in zip(self.callbacks, states, strict=True):
                vars(callback).update(state)

    @property
    def served(self) -> Served:
        """The network with its final weights, as `fit` gives it; told last."""
        assert self._weights is not None
        served = Served(self.job.model, self.job.spec, self.job.transform)
        served.load_state_dict(torch.load(io.BytesIO(self._weights), weights_only=True))
        return served.eval()


def _teller(tell: Tell, at: int) -> EpochHook:
    return lambda *epoch: tell(("callback", at, *epoch))


def _device(job: Job, place: Place) -> torch.device:
    device = device_of(job.compute)
    return torch.device("cuda", place.local) if device.type == "cuda" else device


def _spawned(
    tell: Tell, place: Place, job: Job, checkpoints: Path | None, callbacks: list[Callback], meeting: Path
) -> None:
    """What a process does that was started here."""
    loopback()
    store = distributed.FileStore(str(meeting), place.world)  # type: ignore[attr-defined]
    member(job, place, tell, checkpoints, callbacks, store=store)
