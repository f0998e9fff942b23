"""Stage `tune`: which hyperparameters? Searches `tune.space` with Optuna; writes `best.yaml`."""

from __future__ import annotations

from dataclasses import replace

import optuna
from optuna.trial import TrialState

from models.params import Model
from pipeline import tracking
from pipeline.core.alone import alone
from pipeline.core.params import section
from pipeline.core.project import Seed
from pipeline.core.resampling import block_of
from pipeline.core.stage import DATA, STATE, main, replacing
from pipeline.fitting import families
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train
from pipeline.fitting.job import make_job
from pipeline.fitting.ratefinder import with_rate
from pipeline.fitting.recorder import Recorder, recorded
from pipeline.fitting.space import check
from pipeline.tuning import study as studies
from pipeline.tuning.children import Again, Children
from pipeline.tuning.finals import Finals, contenders
from pipeline.tuning.folded import fold_jobs
from pipeline.tuning.opening import RATE, find_study, given, open_run
from pipeline.tuning.pictures import draw
from pipeline.tuning.results import log_verdict, write_best, write_finals, write_table
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Tune
from pipeline.tuning.trial import METRIC
from pipeline.tuning.verdict import Verdict, judge, untested

OUTPUT = DATA / "tune"


def search(study: optuna.Study, plan: Plan, recorder: Recorder) -> None:
    """Search until the budget is spent, logging each trial to MLflow."""
    coordinator = Coordinator(study, plan, lambda *told: recorder.later(lambda run: children.add(run, *told)))
    children = Children(study, coordinator.curves)
    recorder.later(children.catch_up)
    coordinator.run()


def choose(study: optuna.Study, plan: Plan, recorder: Recorder) -> Verdict:
    """Choose a setting: the best trial, or with `tune.top` the one that does best on fresh seeds."""
    best, job = studies.best(study), plan.jobs[0]
    settings = contenders(study, plan, given(plan.settings.space, job))
    if plan.settings.top == 1 or METRIC not in plan.settings.objectives:
        return untested(best, settings, len(studies.ended(study)))
    plan = replace(plan, folder=STATE / "finals" / study.study_name)
    finals = Finals(plan, settings, lambda *told: recorder.later(lambda run: children.add(run, *told)))
    children = Again(finals.curves)
    recorder.later(children.catch_up)
    return judge(plan, settings, finals.run(), block_of(job.spec))


def write(settings: Tune, job: Job, study: optuna.Study, verdict: Verdict, mlrun: tracking.Run) -> None:
    """Write the outputs of the stage, and log them."""
    winner, compared = verdict.winner, families.compared(studies.ended(study))
    with replacing(OUTPUT) as folder:
        write_best(
            folder, families.chosen(job.model, winner.values, settings.space),
            {"study": study.study_name, "trial": winner.trial, METRIC: winner.search,
             "trials": len(studies.ended(study)), "finals": verdict.plain(),
             **({"families": compared} if compared else {})},
        )  # fmt: skip
        write_table(study, folder / "trials.csv", settings.space)
        write_finals(verdict, folder / "finals.csv")
        draw(study, settings.objectives, verdict, folder)
        mlrun.files(folder, "tune")


def write_nothing() -> None:
    """The outputs where nothing is searched."""
    with replacing(OUTPUT) as folder:
        write_best(folder, {}, {"trials": 0})
        (folder / "trials.csv").write_text(f"trial,state,{METRIC},best\n")
        write_finals(None, folder / "finals.csv")


def tell(study: optuna.Study, verdict: Verdict, mlrun: tracking.Run) -> None:
    """Say what was found, and where to look next."""
    trials = studies.ended(study)
    if compared := families.compared(trials):
        print(f"tune: families compared: {families.told(compared)}")
    states = [trial.state for trial in trials]
    value = "" if verdict.winner.search is None else f", {METRIC} {verdict.winner.search:.4f}"
    print(
        f"tune: {len(trials)} trials ({states.count(TrialState.PRUNED)} pruned, "
        f"{states.count(TrialState.FAIL)} failed) in {studies.seconds_spent(study):.0f} s; "
        f"chosen: {verdict.winner.name}{value}\n"
        f"tune: {verdict.told}\n"
        f"tune: pictures in {OUTPUT / 'plots'}, every trial in {OUTPUT / 'trials.csv'}; make dashboard; "
        f"MLflow run {mlrun.id}"
    )


def run() -> None:
    """Run the stage."""
    settings = section("tune", Tune)
    model, train = section("model", Model), section("train", Train)
    check(settings.space, {"model": model, "train": train})
    train = train.model_copy(update={"max_epochs": settings.max_epochs, "patience": 0})
    job = make_job(model, train, section("seed", Seed), section("compute", Compute))
    if not settings.trials or not settings.space:
        write_nothing()
        print("tune: no trials asked for; the given values are used")
        return
    job = families.prepared(job, settings.space)
    jobs = fold_jobs(job) or (
        with_rate(job) if RATE not in settings.space else job,
    )  # each fold finds its own rate
    study = find_study(settings, jobs)
    plan = Plan(settings, jobs, job.seed, STATE / "trials" / study.study_name, job.compute)
    with (
        alone(plan.folder.with_suffix(".lock"), f"the study {study.study_name} is searched"),
        recorded(lambda: open_run(study)) as recorder,
    ):
        search(study, plan, recorder)
        verdict = choose(study, plan, recorder)
        recorder.later(lambda run: log_verdict(run, study, verdict))
    write(settings, jobs[0], study, verdict, recorder.run)
    recorder.run.finish()
    tell(study, verdict, recorder.run)


if __name__ == "__main__":
    main(run, "tune")
