"""Collects what fitting needs from the folders of earlier stages."""

from __future__ import annotations

from models.params import Model
from pipeline.core.stage import DATA
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train
from serving.inputs.spec import Transform, read_spec

TRAIN = DATA / "augment"
VAL = DATA / "prepare" / "val"
TRANSFORM = DATA / "prepare" / "transform"


def make_job(model: Model, train: Train, seed: int, compute: Compute) -> Job:
    """The job on the augmented training set and the validation split."""
    transform = Transform.model_validate_json((TRANSFORM / "transform.json").read_text())
    return Job(model, train, read_spec(TRAIN), transform, TRAIN, VAL, seed, compute)
