"""What a worker measures of a network beside its loss: how long an answer takes, and how many weights it has."""

from __future__ import annotations

import statistics
import time
from itertools import islice

import torch

from models.served import Served
from pipeline.fitting.batches import Batches
from pipeline.fitting.fit import Job
from serving.inputs.generation import canonical

SAMPLES = 16  # of validation that are answered, one at a time
ROUNDS = 5  # of them, of which the first is not counted


def parameters(served: Served) -> int:
    """The weights of a network as it is served, those that are frozen among them."""
    return sum(weight.numel() for weight in served.parameters())


def parameters_of(job: Job) -> int:
    """The weights that a job's network will have."""
    return parameters(Served(job.model, job.spec, job.transform))


def latency_ms(served: Served, job: Job) -> float:
    """The median milliseconds of one answer, one validation sample at a time, on one CPU thread, once warm."""
    inputs = _inputs(job)
    threads, taken = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(ROUNDS):
                taken.append([_seconds(served, sample) for sample in inputs])
    finally:
        torch.set_num_threads(threads)
    return 1000 * statistics.median(second for row in taken[1:] for second in row)


def _inputs(job: Job) -> list[torch.Tensor]:
    """What a network is asked, one sample each, (1, ...)."""
    if job.spec.task == "generation":
        requests = [canonical(0, seed, job.model.latent) for seed in range(SAMPLES)]
        return [torch.from_numpy(request)[None] for request in requests]
    return [sample for sample, _ in islice(Batches(job.val_folder, 1, torch.device("cpu")), SAMPLES)]


def _seconds(served: Served, sample: torch.Tensor) -> float:
    began = time.perf_counter()
    served(sample)
    return time.perf_counter() - began
