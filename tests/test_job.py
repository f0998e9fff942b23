"""What `tune` and `train` fit: the family that suits the data where none is named, every family on every modality."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from models.params import Model
from pipeline.core.dataset import Dataset, DatasetWriter, identities
from pipeline.core.params import UserError
from pipeline.fitting import job as jobs
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train, fit
from serving.inputs.ragged import Ragged
from serving.inputs.spec import Column, Modality, write_json
from tests.samples import CLASSES, PAIRS, params_of, rows_of, spec_of, transform_of

pytestmark = pytest.mark.usefixtures("one_thread", "small_trunk")
PLAIN = Train.model_validate({"max_epochs": 4, "batch_size": 16, "lr": 0.01, "augmentation": {"strength": 0}})


def written(folder: Path, modality: str, count: int, seed: int) -> Dataset:
    """A data set folder; what is learnable is one number, token, or level of a picture's first channel."""
    spec, labels = spec_of(modality), np.arange(count) % len(CLASSES)
    rows = rows_of(spec, count, 9, seed).numpy()
    if modality == "image":
        rows[:, 0] = (rows[:, 0] // 8 + 40 * labels[:, None, None]).astype(np.uint8)
    elif modality == "text":
        rows[:, 0] = 1 + labels
    else:
        rows[(..., 0) if modality == "table" else (slice(None), 0, 0)] = 3 * labels
    column, held = spec.input, rows
    if column.ragged:
        held = Ragged.of([row[: 9 - at % 9] for at, row in enumerate(rows)], column.dtype, column.shape)
    named = spec.model_copy(update={"columns": (*spec.columns, Column(name="id", role="id", dtype="S64"))})
    with DatasetWriter(folder, named) as writer:
        writer.append({column.name: held, "label": labels.astype(np.int64), "id": identities(rows)})
    return Dataset(folder)


def job_of(model: Model, modality: str, train: Train = PLAIN) -> Job:
    """The job that `tune` and `train` make from the folders of the working directory."""
    written(jobs.TRAIN, modality, 80, 1)
    written(jobs.VAL, modality, 20, 2)
    jobs.TRANSFORM.mkdir(parents=True)
    write_json(jobs.TRANSFORM / "transform.json", transform_of(spec_of(modality)))
    return jobs.make_job(model, train, 3, Compute(accelerator="cpu", threads=1))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("promote: {metric: auto}\n")


@pytest.mark.parametrize(("family", "modality"), PAIRS)
def test_every_family_learns_from_the_folders_of_every_modality(family: str, modality: str) -> None:
    curves: list[dict[str, float]] = []
    job = job_of(params_of(family, width=16), modality, PLAIN.model_copy(update={"max_epochs": 15}))
    served = fit(job, [lambda _, metrics: curves.append(metrics)])
    least = (
        0.4 if family == "transfer" else 0.6
    )  # a trunk that stays as it is makes little of what tests make up
    assert curves[-1]["val_score"] > least, [round(curve["val_score"], 2) for curve in curves]
    assert not served.training
    assert served(rows_of(spec_of(modality), 3)).shape == (3, len(CLASSES))


@pytest.mark.parametrize("modality", get_args(Modality))
def test_auto_is_resolved_told_and_fits(modality: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = job_of(params_of("auto"), modality)
    assert job.model.family != "auto"
    told = capsys.readouterr().out
    assert told.startswith(f"model.family is auto: {job.model.family}, as ")
    assert fit(job, [])(rows_of(spec_of(modality), 2)).isfinite().all()
    assert torch.equal(fit(job, [])(rows_of(job.spec, 2)), fit(job, [])(rows_of(job.spec, 2)))


def test_a_named_family_is_kept_and_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert job_of(params_of("fnn"), "image").model == params_of("fnn")
    assert capsys.readouterr().out == ""


def test_a_family_that_does_not_fit_is_the_users_error() -> None:
    with pytest.raises(
        UserError,
        match=r"model\.family 'lstm' does not fit classification of modality 'image'; expected one of cnn",
    ):
        fit(job_of(params_of("lstm"), "image"), [])
