"""Several processes that train one model together: started here, or by torchrun, srun or Ray.

`fit_together` is `fit` for a job with `compute.processes`; `member` is what each process of the group runs.
"""

from __future__ import annotations

import copy
import io
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback
from torch import distributed

from models.served import Served
from pipeline.core.params import UserError
from pipeline.engine.mapping import _bound_to_parent
from pipeline.fitting.epochlog import EpochHook
from pipeline.fitting.fit import Job, fit
from pipeline.fitting.groups import Place, check, joined, launched, loopback
from pipeline.fitting.trainer import device_of

Tell = Callable[[Any], None]  # sends what the first process knows to where MLflow is written, in order
GRACE = 3.0  # seconds in which the one that died first is told from those that died of it


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
        with _started(_run, [(Place(rank, world, rank, world), *given) for rank in range(world)]) as group:
            _listen(group, told.take)
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


def _run(
    pipe: Connection,
    place: Place,
    job: Job,
    checkpoints: Path | None,
    callbacks: list[Callback],
    meeting: Path,
) -> None:
    """What a process does that was started here; its error goes to the parent."""
    _bound_to_parent()
    loopback()
    try:
        store = distributed.FileStore(str(meeting), place.world)  # type: ignore[attr-defined]
        member(job, place, pipe.send, checkpoints, callbacks, store=store)
    except Exception as error:
        error.add_note(f"in process {place.rank} of {place.world}:\n{traceback.format_exc()}")
        try:
            pipe.send(("error", error))
        except Exception:  # what cannot be pickled
            pipe.send(("error", RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")))
        sys.exit(1)


@contextmanager
def _started(work: Callable[..., None], given: list[tuple[Any, ...]]) -> Iterator[dict[Connection, Any]]:
    """Processes that run `work` with a pipe and what is given; in the end none is left."""
    context = get_context("spawn")
    group: dict[Connection, Any] = {}
    try:
        for rank, arguments in enumerate(given):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(theirs, *arguments), name=f"train-{rank}", daemon=True
            )
            with _deaf_to_ctrl_c():
                process.start()
            theirs.close()
            group[ours] = process
        yield group
    finally:
        for pipe, process in group.items():
            process.kill()
            process.join()
            pipe.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started within ignores Ctrl-C from its first moment, and leaves it to this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _listen(group: dict[Connection, Any], take: Tell) -> None:
    """Take what processes tell until all of them have ended well.

    Raises:
        UserError: one was killed.
    """
    alive = list(group)
    while alive:
        for pipe in wait(alive):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except (EOFError, ConnectionResetError):
                alive.remove(pipe)
                group[pipe].join()
                if group[pipe].exitcode:
                    raise _reason(group, []) from None
                continue
            if message[0] == "error":
                raise _reason(group, [message[1]])
            take(message)


def _reason(group: dict[Connection, Any], errors: list[Exception]) -> Exception:
    """Why the group ended: the first of its errors, unless one was killed, of which the others' errors come."""
    end = time.monotonic() + GRACE
    while (
        time.monotonic() < end and not (dead := _killed(group)) and any(p.is_alive() for p in group.values())
    ):
        time.sleep(0.05)
    for pipe in group:
        with suppress(EOFError, OSError):
            while pipe.poll():
                message = pipe.recv()
                errors += [message[1]] if message[0] == "error" else []
    if dead := _killed(group):
        rank, sign = dead[0]
        return UserError(
            f"process {rank} of the {len(group)} that train together was killed ({signal.Signals(sign).name}), perhaps "
            "for want of memory, and the others were ended; run 'dvc repro' again: it goes on from the last checkpoint"
        )
    theirs = [error for error in errors if isinstance(error, UserError)]
    return (theirs or errors or [RuntimeError("a process that trains ended without a word")])[0]


def _killed(group: dict[Connection, Any]) -> list[tuple[int, int]]:
    """Number and signal of each process that was killed."""
    codes = [(rank, process.exitcode) for rank, process in enumerate(group.values())]
    return [(rank, -code) for rank, code in codes if code is not None and code < 0]
