"""Stage `tune`: which hyperparameters? Searches `tune.space` with Optuna; writes `best.yaml`."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from models.params import Model
from pipeline import tracking
from pipeline.core.alone import alone
from pipeline.core.params import section
from pipeline.core.project import Seed
from pipeline.core.stage import DATA, STATE, main, replacing
from pipeline.fitting import families
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train
from pipeline.fitting.job import make_job
from pipeline.fitting.lineage import data_digest, digest
from pipeline.fitting.ratefinder import with_rate
from pipeline.fitting.recorder import recorded
from pipeline.fitting.space import Space, check
from pipeline.tuning import nested
from pipeline.tuning import study as studies
from pipeline.tuning.children import Children
from pipeline.tuning.folded import fold_jobs
from pipeline.tuning.results import draw, write_best, write_table
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Tune
from pipeline.tuning.trial import METRIC
from serving.inputs.spec import write_json

OUTPUT = DATA / "tune"
RATE = "train.lr"


def find_study(settings: Tune, jobs: tuple[Job, ...]) -> optuna.Study:
    """The stored study of these data, this space and these base values; a new one asks the given values first."""
    job = jobs[0]
    base = {"model": job.model.model_dump(), "train": job.train.model_dump()}
    space = {name: domain.model_dump() for name, domain in settings.space.items()}
    kept = settings.model_dump(include={"sampler", "pruner", "objectives", "constraints", "reduction"})
    folders = (folder for each in jobs for folder in (each.train_folder, each.val_folder))
    key = digest(base, space, kept, job.seed, data_digest(*folders))
    study = studies.open_study(tracking.studies(), f"{job.spec.source}-{key}", settings)
    studies.ask_first(study, families.first_trials(given(settings.space, job), settings.space))
    return study


def open_run(study: optuna.Study) -> tracking.Run:
    """The MLflow run of a study: that of its earlier sessions, where the store in force knows it."""
    key = f"run {tracking.place()}"
    run = tracking.Run(study.user_attrs[key]) if key in study.user_attrs else None
    if run is None or not run.exists():
        run = begun(study) or tracking.start("tune", {"stage": "tune", "study": study.study_name})
        study.set_user_attr(key, run.id)
    return run


def begun(study: optuna.Study) -> tracking.Run | None:
    """The run that a kill left just when it was begun, before it was noted with the study."""
    alike = f"tags.stage = 'tune' and tags.study = '{study.study_name}' and attributes.status = 'RUNNING'"
    runs = (tracking.Run(found.info.run_id) for found in tracking.search(alike))
    return next((run for run in runs if not run.children()), None)


def run_study(settings: Tune, jobs: tuple[Job, ...]) -> tuple[optuna.Study, FrozenTrial, tracking.Run]:
    """Search until the budget is spent, logging the study and each trial to MLflow."""
    study, job = find_study(settings, jobs), jobs[0]
    plan = Plan(settings, jobs, job.seed, STATE / "trials" / study.study_name, job.compute)
    with (
        alone(plan.folder.with_suffix(".lock"), f"the study {study.study_name} is searched"),
        recorded(lambda: open_run(study)) as recorder,
    ):
        search = Coordinator(study, plan, lambda *told: recorder.later(lambda run: children.add(run, *told)))
        children = Children(study, search.curves)
        recorder.later(children.catch_up)
        search.run()
    best = studies.best(study)
    for name, entry in families.compared(studies.ended(study)).items():
        recorder.run.tags({f"family.{name}": f"best {METRIC} {entry['best']} of {entry['trials']} trials"})
    recorder.run.tags({f"best.{name}": str(value) for name, value in best.params.items()})
    recorder.run.metrics({METRIC: best.value or 0.0, "trials": len(studies.ended(study))})
    return study, best, recorder.run


def given(space: Space, job: Job) -> dict[str, object]:
    """The values of `params.yaml` for the keys that are tuned."""
    plain = {"model": job.model.model_dump(), "train": job.train.model_dump()}
    values: dict[str, object] = {}
    for dotted in space:
        if dotted == RATE and not job.train.lr:
            continue  # to be found, and the study finds it
        node: object = plain
        for part in dotted.split("."):
            assert isinstance(node, dict)
            node = node[part]
        values[dotted] = node
    return values


def run() -> None:
    """Run the stage."""
    settings = section("tune", Tune)
    model, train = section("model", Model), section("train", Train)
    check(settings.space, {"model": model, "train": train})
    train = train.model_copy(update={"max_epochs": settings.max_epochs, "patience": 0})
    job = make_job(model, train, section("seed", Seed), section("compute", Compute))
    if not settings.trials or not settings.space:
        with replacing(OUTPUT) as folder:
            write_best(folder, {}, {"trials": 0})
            (folder / "trials.csv").write_text(f"trial,state,{METRIC},best\n")
        print("tune: no trials asked for; the given values are used")
        return
    job = families.prepared(job, settings.space)
    # Each fold finds a rate of its own, as the whole training set holds its validation samples.
    if RATE not in settings.space and not fold_jobs(job):
        job = with_rate(job)
    if settings.nested:
        print(f"tune: {nested.cost(settings, nested.check(job))}")
    study, best, mlrun = run_study(settings, fold_jobs(job) or (job,))
    estimate = (
        nested.estimate(settings, job, best.user_attrs[METRIC], find_study) if settings.nested else None
    )
    counts = [t.state for t in studies.ended(study)]
    compared = families.compared(studies.ended(study))
    with replacing(OUTPUT) as folder:
        write_best(
            folder, families.chosen(job.model, best.params, settings.space),
            {"study": study.study_name, "trial": best.number, METRIC: best.value, "trials": len(counts),
             **({"families": compared} if compared else {}),
             **({"nested": {METRIC: estimate.val_loss, "val_score": estimate.val_score}} if estimate else {})},
        )  # fmt: skip
        if estimate:
            write_json(folder / "nested.json", estimate.plain())
            mlrun.metrics(estimate.metrics())
        write_table(study, folder / "trials.csv", settings.space)
        draw(study, folder)
        mlrun.files(folder, "tune")
    mlrun.finish()
    if compared:
        print(f"tune: families compared: {families.told(compared)}")
    print(
        f"tune: {len(counts)} trials ({counts.count(TrialState.PRUNED)} pruned, "
        f"{counts.count(TrialState.FAIL)} failed) in {studies.seconds_spent(study):.0f} s; "
        f"best {METRIC} {best.value:.4f} by trial {best.number}"
    )
    if estimate:
        print(f"tune: {estimate}")


if __name__ == "__main__":
    main(run, "tune")
