"""The largest batch that fits into memory: what `train.batch_size: 0` asks for.

Tried on a network that is then thrown away, with the longest samples. A CPU's memory is shared, and asking for too much
of it ends the process: there the bytes that a step needs are told from small batches first.
"""

from __future__ import annotations

import dataclasses
import gc

import psutil
import pytorch_lightning as pl
import torch

from models.tasks import Batch, Supervised
from pipeline.core.params import UserError
from pipeline.fitting.assembly import assemble
from pipeline.fitting.precision import precision_of
from pipeline.fitting.settings import Job
from pipeline.fitting.trainer import device_of, quiet, threads_for

LEAST, MOST = 16, 8192  # what is tried at most, for few and for many samples
STEPS = 16  # of an epoch, at least: fewer teach little, however many samples each sees
SHARE = 0.5  # of the free memory that a step may need
PROBES = (4, 8)  # samples of the batches that tell how many bytes one takes


def with_batch(job: Job) -> Job:
    """The job with a batch size: its own, or one that is found by trying, and printed, where it is 0.

    Raises:
        UserError: not even two samples fit.
    """
    if job.train.batch_size:
        return job
    size, why = largest(job)
    print(f"train.batch_size is 0: {size} is taken, {why}")
    return dataclasses.replace(job, train=job.train.model_copy(update={"batch_size": size}))


def largest(job: Job) -> tuple[int, str]:
    """The largest power of two that fits and leaves an epoch enough steps, and which of the two bounds it."""
    quiet()
    torch.set_num_threads(job.compute.threads or threads_for(job))
    pl.seed_everything(job.seed, workers=False, verbose=False)
    size = dataclasses.replace(job, train=job.train.model_copy(update={"batch_size": LEAST}))
    task, batches, _ = assemble(size)
    trial = Trial(task.to(device_of(job.compute)), job)
    most = sensible(batches.rows, job.train.accumulate)
    found = most
    while not trial.fits([batches.longest(count) for count in PROBES], batches.longest(found)):
        found //= 2
        if found < 2:
            raise UserError("train.batch_size is 0, and a step with 2 samples needs more memory than is free")
    bound = (
        f"as an epoch of {batches.rows} samples should have {STEPS} steps"
        if found == most
        else "as no more fit"
    )
    return found, bound


def sensible(rows: int, accumulate: int = 1) -> int:
    """The largest power of two that leaves an epoch of so many samples enough steps; for few samples 16.

    >>> [sensible(rows) for rows in (50, 3400, 60_000, 10_000_000)]
    [16, 128, 2048, 8192]
    """
    share = max(rows // (STEPS * accumulate), 1)
    return min(max(1 << (share.bit_length() - 1), LEAST), MOST)


class Trial:
    """Steps of a network that is thrown away."""

    def __init__(self, task: Supervised, job: Job) -> None:
        self.task, self.device = task.train(), device_of(job.compute)
        self.precision = precision_of(job.train, self.device)
        self.optimiser = torch.optim.AdamW(task.groups(0.0))

    def fits(self, probes: list[Batch], batch: Batch) -> bool:
        """True where a step with a batch needs no more memory than may be taken."""
        if self.device.type != "cuda" and self.needed(probes, len(batch[1])) > SHARE * free():
            return False
        try:
            self.step(batch)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return False
        finally:
            self.clear()
        return True

    def step(self, batch: Batch) -> None:
        """Forwards, backwards, and a step."""
        self.task.size = self.task.rows = len(batch[1])
        kind = torch.float16 if self.precision == "16-mixed" else torch.bfloat16
        with torch.autocast(self.device.type, kind, enabled=self.precision != "32-true"):
            loss = self.task.training_step(batch, 0)
        loss.backward()
        self.optimiser.step()

    def clear(self) -> None:
        """Let go what a step holds."""
        self.optimiser.zero_grad()
        self.task.totals.clear()
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def needed(self, probes: list[Batch], samples: int) -> float:
        """Bytes that a step needs: a line through what small batches keep, twice for gradients; weights four times."""
        first, second = (self.kept(batch) for batch in probes)
        (few, more) = (len(batch[1]) for batch in probes)
        each = (second - first) / max(more - few, 1)
        weights = sum(weight.nbytes for weight in self.task.parameters())
        return 2 * (first + each * max(samples - few, 0)) + 4 * weights

    def kept(self, batch: Batch) -> int:
        """Bytes that the forward pass keeps for the backward pass, each storage once."""
        held: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.step(batch)
        self.clear()
        return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def free() -> int:
    """Bytes of memory that this machine could give without swapping."""
    return int(psutil.virtual_memory().available)


def out_of_memory(error: Exception) -> bool:
    """True where an error tells of memory that was asked for in vain, on a CPU or a GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
