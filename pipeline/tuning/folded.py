"""The jobs of cross-validation: one for each fold that `prepare` wrote and `augment` made more of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.core.dataset import numbered
from pipeline.core.stage import DATA
from pipeline.fitting.fit import Job
from pipeline.fitting.job import TRAIN
from serving.inputs.spec import Transform, read_spec

FOLDS = DATA / "prepare" / "folds"


def fold_jobs(job: Job) -> tuple[Job, ...]:
    """The job once for each fold, with that fold's samples and transform; none without folds."""
    return tuple(_within(job, fold) for fold in numbered(FOLDS))


def inner_jobs(job: Job) -> tuple[Job, ...]:
    """The same for the folds within the fold of a job; none where there are none."""
    return tuple(_within(job, fold) for fold in numbered(job.val_folder.parent / "inner"))


def _within(job: Job, fold: Path) -> Job:
    """The job on one fold, whose vocabulary and known categories are those of its own training part."""
    train = TRAIN / "folds" / fold.relative_to(FOLDS)
    transform = Transform.model_validate_json((fold / "transform" / "transform.json").read_text())
    return replace(
        job, spec=read_spec(train), transform=transform, train_folder=train, val_folder=fold / "val"
    )
