"""Collects what fitting needs from the folders of earlier stages."""

from __future__ import annotations

from models.auto import choose
from models.params import Model
from pipeline.core.dataset import Dataset
from pipeline.core.params import PARAMS, UserError, parse, read, where
from pipeline.core.stage import DATA
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train
from pipeline.fitting.guarantee import breaches
from pipeline.goals import check_goal
from serving.inputs.spec import Transform

TRAIN = DATA / "augment"
VAL = DATA / "prepare" / "val"
TRANSFORM = DATA / "prepare" / "transform"


def make_job(model: Model, train: Train, seed: int, compute: Compute) -> Job:
    """The job on the augmented training set and the validation split; chooses the family where it is 'auto'.

    Raises:
        UserError: `promote.metric` does not fit the task, which is told before anything is fitted.
    """
    transform = Transform.model_validate_json((TRANSFORM / "transform.json").read_text())
    data = Dataset(TRAIN)
    check_goal(data.spec)
    refuse_breaches(model, train)
    if model.family == "auto":
        family, reason = choose(data.spec, len(data))
        print(f"model.family is auto: {family}, as {reason}")
        model = model.model_copy(update={"family": family})
    return Job(model, train, data.spec, transform, TRAIN, VAL, seed, compute)


def refuse_breaches(model: Model, train: Train) -> None:
    """Refuse what breaks the guarantee of privacy, in these values or elsewhere in `params.yaml`.

    Raises:
        UserError: a line for each key.
    """
    if not train.privacy.epsilon:
        return
    text = read(PARAMS)
    values = {**parse(text), "model": model.model_dump(), "train": train.model_dump()}
    if found := breaches(values):
        raise UserError(
            "\n".join(f"{where(tuple(each.key.split('.')), text)}: {each.message}" for each in found)
        )
