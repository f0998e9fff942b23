"""Stage `tune`: which hyperparameters? Searches `tune.space` with Optuna; writes `best.yaml`."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from models.params import Model
from pipeline import tracking
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
from pipeline.tuning import study as studies
from pipeline.tuning.folded import fold_jobs
from pipeline.tuning.results import draw, log_trial, write_best, write_table
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Tune
from pipeline.tuning.trial import METRIC

OUTPUT = DATA / "tune"
RATE, SIZE = "train.lr", "train.batch_size"


def find_study(settings: Tune, jobs: tuple[Job, ...]) -> optuna.Study:
    """The stored study of these data, this space and these base values; a new one asks the given values first."""
    job = jobs[0]
    base = {"model": job.model.model_dump(), "train": job.train.model_dump()}
    space = {name: domain.model_dump() for name, domain in settings.space.items()}
    kept = settings.model_dump(include={"sampler", "pruner", "objectives", "constraints", "reduction"})
    folders = (folder for each in jobs for folder in (each.train_folder, each.val_folder))
    key = digest(base, space, kept, job.seed, data_digest(*folders))
    study = studies.open_study(tracking.studies(), f"{job.spec.source}-{key}", settings)
    if not study.get_trials(deepcopy=False):
        for values in families.first_trials(given(settings.space, job), settings.space):
            study.enqueue_trial(values)  # the given values are the ones to beat
    return study


def open_run(study: optuna.Study) -> tracking.Run:
    """The MLflow run of a study: that of its earlier sessions, where the store in force knows it."""
    key = f"run {tracking.place()}"
    run = tracking.Run(study.user_attrs[key]) if key in study.user_attrs else None
    if run is None or not run.exists():
        run = tracking.start("tune", {"stage": "tune", "study": study.study_name})
        study.set_user_attr(key, run.id)
    return run


def run_study(settings: Tune, jobs: tuple[Job, ...]) -> tuple[optuna.Study, FrozenTrial, tracking.Run]:
    """Search until the budget is spent, logging the study and each trial to MLflow."""
    study, job = find_study(settings, jobs), jobs[0]
    plan = Plan(settings, jobs, job.seed, STATE / "trials" / study.study_name, job.compute)
    done = len(studies.ended(study))
    with (
        recorded(lambda: open_run(study)) as recorder,
        tqdm(total=settings.trials, initial=done, desc="tune", unit=" trials") as bar,
    ):

        def after(trial: FrozenTrial, curve: list[dict[str, float]]) -> None:
            recorder.later(lambda run: log_trial(run, trial, curve))
            bar.update()
            if any(t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)):
                bar.set_postfix_str(f"best {METRIC} {study.best_value:.4f}")

        Coordinator(study, plan, after).run()
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
        if dotted in (RATE, SIZE) and not getattr(job.train, dotted.partition(".")[2]):
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
    if RATE not in settings.space and job.train.batch_size and not fold_jobs(job):
        job = with_rate(
            job
        )  # each fold finds its own, as the whole training set holds its validation samples
    study, best, mlrun = run_study(settings, fold_jobs(job) or (job,))
    counts = [t.state for t in studies.ended(study)]
    compared = families.compared(studies.ended(study))
    with replacing(OUTPUT) as folder:
        write_best(
            folder, families.chosen(job.model, best.params, settings.space),
            {"study": study.study_name, "trial": best.number, METRIC: best.value, "trials": len(counts),
             **({"families": compared} if compared else {})},
        )  # fmt: skip
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


if __name__ == "__main__":
    main(run, "tune")
