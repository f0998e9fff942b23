"""Stage `tune`: which hyperparameters? Searches `tune.space` with Optuna; writes `best.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import optuna
from optuna.trial import TrialState

from models.params import Model
from pipeline import tracking
from pipeline.core.alone import alone
from pipeline.core.params import section
from pipeline.core.project import Seed
from pipeline.core.resampling import block_of
from pipeline.core.stage import DATA, STATE, main, replacing
from pipeline.core.tables import write_csv
from pipeline.fitting import families
from pipeline.fitting.compute import Compute
from pipeline.fitting.energy import country_of, spent, told
from pipeline.fitting.fit import Job, Train
from pipeline.fitting.job import make_job
from pipeline.fitting.ratefinder import with_rate
from pipeline.fitting.recorder import Recorder, recorded
from pipeline.fitting.space import check
from pipeline.tuning import nested
from pipeline.tuning import study as studies
from pipeline.tuning.agreement import check as agree
from pipeline.tuning.children import Again, Children
from pipeline.tuning.finals import Finals, contenders
from pipeline.tuning.folded import fold_jobs
from pipeline.tuning.holding import held
from pipeline.tuning.nested import Nested
from pipeline.tuning.opening import RATE, find_study, given, open_run
from pipeline.tuning.pareto import written
from pipeline.tuning.pictures import draw
from pipeline.tuning.results import log_verdict, write_best, write_finals, write_table
from pipeline.tuning.search import Coordinator, Plan, joules_spent
from pipeline.tuning.settings import Tune
from pipeline.tuning.trial import METRIC
from pipeline.tuning.verdict import Verdict, judge, untested
from serving.inputs.spec import write_json

OUTPUT = DATA / "tune"


@dataclass(frozen=True)
class Found:
    """What the stage found."""

    study: optuna.Study
    verdict: Verdict
    estimate: Nested | None

    @property
    def energy(self) -> dict[str, float]:
        """What all trials took, over all sessions."""
        return spent(joules_spent(studies.ended(self.study)), country_of())


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
    if plan.settings.top == 1:
        return untested(best, settings, len(studies.ended(study)))
    plan = replace(plan, folder=STATE / "finals" / study.study_name)
    finals = Finals(plan, settings, lambda *told: recorder.later(lambda run: children.add(run, *told)))
    children = Again(finals.curves)
    recorder.later(children.catch_up)
    return judge(plan, settings, finals.run(), block_of(job.spec))


def write(settings: Tune, job: Job, found: Found, mlrun: tracking.Run) -> None:
    """Write the outputs of the stage, and log them."""
    trials, winner = studies.ended(found.study), found.verdict.winner
    about = {
        "study": found.study.study_name, "trial": winner.trial, METRIC: winner.search, "trials": len(trials),
        "finals": found.verdict.plain(), "families": families.compared(trials),
        "front": written(found.study, settings.objectives),
        "nested": found.estimate and {METRIC: found.estimate.val_loss, "val_score": found.estimate.val_score},
    }  # fmt: skip
    with replacing(OUTPUT) as folder:
        kept = {name: value for name, value in about.items() if value or name == "trial"}
        write_best(folder, families.chosen(job.model, winner.values, settings.space), kept)
        if found.estimate:
            write_json(folder / "nested.json", found.estimate.plain())
            mlrun.metrics(found.estimate.metrics())
        write_table(found.study, folder / "trials.csv", settings.space)
        write_finals(found.verdict, folder / "finals.csv")
        draw(found.study, settings.objectives, found.verdict, folder)
        mlrun.files(folder, "tune")
    mlrun.metrics(found.energy)


def write_nothing() -> None:
    """The outputs where nothing is searched."""
    with replacing(OUTPUT) as folder:
        write_best(folder, {}, {"trials": 0})
        (folder / "trials.csv").write_text(f"trial,state,{METRIC},best\n")
        (folder / "importances.csv").write_text("parameter,importance\n")
        (folder / "plots").mkdir()
        write_finals(None, folder / "finals.csv")
        write_csv(folder / "importances.csv", ["parameter", "importance"], [])


def tell(found: Found, mlrun: tracking.Run) -> None:
    """Say what was found, and where to look next."""
    trials, winner = studies.ended(found.study), found.verdict.winner
    if compared := families.compared(trials):
        print(f"tune: families compared: {families.told(compared)}")
    states = [trial.state for trial in trials]
    value = "" if winner.search is None else f", {METRIC} {winner.search:.4f}"
    print(
        f"tune: {len(trials)} trials ({states.count(TrialState.PRUNED)} pruned, "
        f"{states.count(TrialState.FAIL)} failed) in {studies.seconds_spent(found.study):.0f} s "
        f"with {told(found.energy)}; chosen: {winner.name}{value}"
    )
    print(f"tune: {found.verdict.told}")
    if found.estimate:
        print(f"tune: {found.estimate}")
    print(
        f"tune: pictures in {OUTPUT / 'plots'}, every trial in {OUTPUT / 'trials.csv'}; make dashboard; "
        f"MLflow run {mlrun.id}"
    )


def run() -> None:
    """Run the stage, one process at a time."""
    with alone(STATE / "tune.lock", "this project is tuned"):
        tune()


def tune() -> None:
    """Search, and write what was found."""
    settings = section("tune", Tune)
    country_of()  # refuses one that is not known before anything is fitted
    model, train = section("model", Model), section("train", Train)
    check(settings.space, {"model": model, "train": train})
    train = train.model_copy(update={"max_epochs": settings.max_epochs, "patience": 0})
    job = make_job(model, train, section("seed", Seed), section("compute", Compute))
    if not settings.trials or not settings.space:
        write_nothing()
        print("tune: no trials asked for; the given values are used")
        return
    if train.privacy.epsilon:
        print(
            "tune: the epsilon of train.privacy is each trial's; what choosing among trials tells is not counted"
        )
    job = families.prepared(job, settings.space)
    # Each fold finds a rate of its own, as the whole training set holds its validation samples.
    if RATE not in settings.space and job.train.batch_size and not fold_jobs(job):
        job = with_rate(job)
    agree(settings, len(fold_jobs(job)))
    if settings.nested:
        print(f"tune: {nested.cost(settings, nested.check(job))}")
    jobs = fold_jobs(job) or (job,)
    study = find_study(settings, jobs)
    plan = Plan(settings, jobs, job.seed, STATE / "trials" / study.study_name, job.compute)
    with held(study), recorded(lambda: open_run(study, settings)) as recorder:
        search(study, plan, recorder)
        verdict = choose(study, plan, recorder)
        recorder.later(lambda run: log_verdict(run, study, verdict))
        value = studies.best(study).user_attrs[METRIC]
        estimate = nested.estimate(settings, job, value, find_study) if settings.nested else None
    found = Found(study, verdict, estimate)
    write(settings, job, found, recorder.run)
    recorder.run.finish()
    tell(found, recorder.run)


if __name__ == "__main__":
    main(run, "tune")
