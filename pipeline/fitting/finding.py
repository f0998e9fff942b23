"""What a training finds for itself where 0 stands: its batch size and its learning rate."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.fitting.batchsize import with_batch
from pipeline.fitting.ratefinder import with_rate
from pipeline.fitting.settings import Job
from serving.inputs.spec import read_json, write_json

NAMES = ("batch_size", "lr")  # the rate is that of the batch size


def completed(job: Job, folder: Path | None = None) -> Job:
    """The job with a batch size and a learning rate: its own, or found where they are 0.

    With `folder`, that of a training's checkpoints, a training that goes on takes what it began with: another
    machine, or less free memory, would find another batch size.
    """
    asked = [name for name in NAMES if not getattr(job.train, name)]
    if not asked:
        return job
    note = folder / "found.json" if folder else None
    if note is not None and note.exists():
        return dataclasses.replace(job, train=job.train.model_copy(update=read_json(note)))
    job = with_rate(with_batch(job))
    if note is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh = note.with_suffix(".new")
        write_json(fresh, {name: getattr(job.train, name) for name in asked})
        fresh.replace(note)
    return job
