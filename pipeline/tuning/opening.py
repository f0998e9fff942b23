"""The study of these data, space and base values, and its MLflow run: those of earlier sessions, or new ones."""

from __future__ import annotations

import warnings

import optuna

from pipeline import mlflow_store, tracking
from pipeline.core.params import flatten
from pipeline.fitting import families
from pipeline.fitting.fit import Job
from pipeline.fitting.lineage import data_digest, digest
from pipeline.fitting.space import Plain, Space, same
from pipeline.tuning import study as studies
from pipeline.tuning.settings import Tune

SETTLED = {
    "sampler",
    "pruner",
    "objectives",
    "constraints",
    "reduction",
}  # with the space; others make no new study
RATE, SIZE = "train.lr", "train.batch_size"


def find_study(settings: Tune, jobs: tuple[Job, ...]) -> optuna.Study:
    """The stored study; a new one asks the given values first, as they are the ones to beat."""
    job = jobs[0]
    base = {"model": job.model.model_dump(), "train": job.train.model_dump()}
    space = {name: domain.model_dump() for name, domain in settings.space.items()}
    kept = settings.model_dump(include=SETTLED)
    folders = (folder for each in jobs for folder in (each.train_folder, each.val_folder))
    key = digest(base, space, kept, job.seed, data_digest(*folders))
    study = studies.open_study(mlflow_store.studies(), f"{mlflow_store.project()}-{key}", settings)
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is experimental
            study.set_metric_names(list(settings.objectives))  # as the dashboard shows them
    studies.ask_first(study, families.first_trials(askable(settings.space, job), settings.space))
    return study


def settled(settings: Tune) -> Plain:
    """What stays as it is over all sessions of a study, to be logged."""
    space = {name: domain.model_dump(exclude_defaults=True) for name, domain in settings.space.items()}
    return {
        **settings.model_dump(include=SETTLED),
        "space": {name: str(what) for name, what in space.items()},
    }


def askable(space: Space, job: Job) -> Plain:
    """The given values that a trial may have; in place of a choice that is none of the space's, one is drawn."""
    found = given(space, job)
    return {
        name: value
        for name, value in found.items()
        if not space[name].choices or any(same(value, choice) for choice in space[name].choices)
    }


def given(space: Space, job: Job) -> Plain:
    """The values of `params.yaml` for the keys that are tuned."""
    plain = {"model": job.model.model_dump(), "train": job.train.model_dump()}
    values: Plain = {}
    for dotted in space:
        if dotted in (RATE, SIZE) and not getattr(job.train, dotted.partition(".")[2]):
            continue  # to be found, and the study finds it
        node: object = plain
        for part in dotted.split("."):
            assert isinstance(node, dict)
            node = node[part]
        values[dotted] = node
    return values


def open_run(study: optuna.Study, settings: Tune) -> tracking.Run:
    """The MLflow run of a study, with what makes it this study: that of earlier sessions, where the store knows it."""
    key = f"run {mlflow_store.place()}"
    run = tracking.Run(study.user_attrs[key]) if key in study.user_attrs else None
    if run is None or not run.exists():
        run = begun(study) or tracking.start("tune", {"stage": "tune", "study": study.study_name})
        run.params(flatten({"tune": settled(settings)}))
        study.set_user_attr(key, run.id)
    return run


def begun(study: optuna.Study) -> tracking.Run | None:
    """The run that a kill left just when it was begun, before it was noted with the study."""
    alike = f"tags.stage = 'tune' and tags.study = '{study.study_name}' and attributes.status = 'RUNNING'"
    runs = (tracking.Run(found.info.run_id) for found in tracking.search(alike))
    return next((run for run in runs if not run.children()), None)
