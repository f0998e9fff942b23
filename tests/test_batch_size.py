"""`train.batch_size: 0`: the largest that fits and makes sense, the same where a training goes on."""

from __future__ import annotations

import dataclasses
import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.params import UserError
from pipeline.fitting import batchsize
from pipeline.fitting.batches import Batches
from pipeline.fitting.batchsize import Trial, largest, sensible, with_batch
from pipeline.fitting.finding import completed
from pipeline.fitting.fit import Job, Train, assemble, fit
from pipeline.fitting.space import Domain
from pipeline.tuning.opening import given
from tests.samples import params_of, spec_of, transform_of
from tests.small import CPU, blobs, table_job
from tests.test_job import written

pytestmark = pytest.mark.usefixtures("one_thread")


def job_of(folder: Path, rows: int = 1100, **settings: Any) -> Job:
    model = {"width": 64, "depth": 4, "normalisation": "batch"}
    return table_job(
        folder, blobs(rows, 0), blobs(60, 1), {"batch_size": 0, "max_epochs": 1, **settings}, model
    )


def test_what_the_samples_allow_is_taken_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = with_batch(job_of(tmp_path))
    assert job.train.batch_size == 64
    told = "train.batch_size is 0: 64 is taken, as an epoch of 1100 samples should have 16 steps\n"
    assert capsys.readouterr().out == told
    assert with_batch(job) is job
    assert capsys.readouterr().out == ""
    fit(job, [])
    assert with_batch(job_of(tmp_path, accumulate=2)).train.batch_size == 32
    assert doctest.testmod(batchsize) == (0, 1)


def test_memory_bounds_it_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as much free memory is half the batch, about; what is too large is never tried."""
    tried: list[int] = []
    step = Trial.step

    def stepping(self: Trial, batch: Any) -> None:
        tried.append(len(batch[1]))
        step(self, batch)

    monkeypatch.setattr(Trial, "step", stepping)
    task, batches, _ = assemble(job_of(tmp_path, batch_size=16))
    probe = Trial(task, job_of(tmp_path))
    probes = [batches.longest(count) for count in batchsize.PROBES]
    need = {size: probe.needed(probes, size) for size in (8, 16, 32, 64)}
    assert need[8] < need[16] < need[32] < need[64]
    for size in (8, 32):
        tried.clear()
        monkeypatch.setattr(batchsize, "free", lambda size=size: need[size] / batchsize.SHARE + 1)
        assert largest(job_of(tmp_path)) == (size, "as no more fit")
        assert max(tried) == max(size, *batchsize.PROBES)
    monkeypatch.setattr(batchsize, "free", lambda: 1)
    with pytest.raises(UserError, match="a step with 2 samples needs more memory than is free"):
        with_batch(job_of(tmp_path))


def test_what_a_step_needs_is_told_from_small_batches(tmp_path: Path) -> None:
    """The line through 4 and 8 samples tells what 256 keep."""
    task, batches, _ = assemble(job_of(tmp_path, batch_size=16))
    trial = Trial(task, job_of(tmp_path))
    told = trial.needed([batches.longest(count) for count in batchsize.PROBES], 256)
    weights = 4 * sum(weight.nbytes for weight in task.parameters())
    assert told - weights == pytest.approx(2 * trial.kept(batches.longest(256)), rel=0.05)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory: 8 bytes"
        ),
    ],
)
def test_a_step_that_runs_out_of_memory_is_tried_with_half(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trial.step

    def full(self: Trial, batch: Any) -> None:
        if len(batch[1]) > 16:
            raise error
        step(self, batch)

    monkeypatch.setattr(Trial, "step", full)
    assert largest(job_of(tmp_path)) == (16, "as no more fit")


def test_a_real_allocation_that_fails_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60)
    assert batchsize.out_of_memory(failed.value)
    assert not batchsize.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_series_are_tried_at_their_longest(tmp_path: Path) -> None:
    data = written(tmp_path, "series", 40, 1)
    batches = Batches(data.folder, 16, torch.device("cpu"), 1)
    inputs, _ = batches.longest(16)
    assert inputs.shape[:2] == (16, 9)
    lengths = (~np.isnan(inputs.numpy())).any(2).sum(1)
    assert (np.sort(data.inputs.lengths)[-16:][::-1] - lengths).max() <= 1, (
        "the last steps of some hold nothing"
    )
    assert len(batches.longest(100)[1]) == 100
    train = Train.model_validate({"batch_size": 0, "max_epochs": 1})
    transform = transform_of(spec_of("series"))
    job = Job(params_of("lstm"), train, data.spec, transform, tmp_path, tmp_path, 1, CPU)
    assert with_batch(job).train.batch_size == sensible(40) == 16


def test_a_training_that_goes_on_takes_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job, folder = job_of(tmp_path, lr=0), tmp_path / "state"
    first = completed(job, folder)
    assert (first.train.batch_size, first.train.lr > 0) == (64, True)
    assert capsys.readouterr().out.count("\n") == 2
    assert json.loads((folder / "found.json").read_text()) == {"batch_size": 64, "lr": first.train.lr}
    monkeypatch.setattr(batchsize, "free", lambda: 1)
    assert completed(job, folder) == first
    assert capsys.readouterr().out == ""
    given = dataclasses.replace(job, train=job.train.model_copy(update={"batch_size": 32, "lr": 0.1}))
    assert completed(given, tmp_path / "other") is given
    assert not (tmp_path / "other").exists()


def test_a_study_of_the_batch_size_does_not_begin_with_zero(tmp_path: Path) -> None:
    space = {"train.batch_size": Domain(choices=(16, 32)), "model.width": Domain(low=4, high=80)}
    assert given(space, job_of(tmp_path)) == {"model.width": 64}
