"""Stage `tune`: which hyperparameters? Searches `tune.space` with Optuna; writes `best.yaml`."""

from __future__ import annotations

from dataclasses import replace

import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from models.params import Model
from pipeline import tracking
from pipeline.core.params import section
from pipeline.core.project import Seed
from pipeline.core.resampling import block_of
from pipeline.core.stage import DATA, STATE, main, replacing
from pipeline.fitting import families
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train
from pipeline.fitting.job import make_job
from pipeline.fitting.lineage import data_digest, digest
from pipeline.fitting.ratefinder import with_rate
from pipeline.fitting.recorder import Recorder, recorded
from pipeline.fitting.space import Space, check
from pipeline.tuning import study as studies
from pipeline.tuning.finals import Final, Setting, contenders, train_again
from pipeline.tuning.folded import fold_jobs
from pipeline.tuning.pictures import draw
from pipeline.tuning.results import (
    Curve,
    log_final,
    log_trial,
    log_verdict,
    write_best,
    write_finals,
    write_table,
)
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Tune
from pipeline.tuning.trial import METRIC
from pipeline.tuning.verdict import Verdict, judge, untested

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


def search(study: optuna.Study, plan: Plan, recorder: Recorder) -> None:
    """Search until the budget is spent, logging each trial to MLflow."""
    done = len(studies.ended(study))
    with tqdm(total=plan.settings.trials, initial=done, desc="tune", unit=" trials") as bar:

        def after(trial: FrozenTrial, curve: Curve) -> None:
            recorder.later(lambda run: log_trial(run, trial, curve))
            bar.update()
            if any(t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)):
                bar.set_postfix_str(f"best {METRIC} {study.best_value:.4f}")

        Coordinator(study, plan, after).run()


def choose(study: optuna.Study, plan: Plan, recorder: Recorder) -> Verdict:
    """Choose a setting: the best trial, or with `tune.top` the one that does best on fresh seeds."""
    best, job = studies.best(study), plan.jobs[0]
    settings = contenders(study, plan, given(plan.settings.space, job))
    if plan.settings.top == 1 or METRIC not in plan.settings.objectives:
        return untested(best, settings, len(studies.ended(study)))
    with tqdm(total=len(settings) * plan.settings.seeds, desc="again", unit=" trainings") as bar:

        def after(setting: Setting, seed: int, final: Final, curve: Curve | None) -> None:
            if curve is not None:  # this session's
                recorder.later(lambda run: log_final(run, setting, seed, final, curve))
            bar.update()

        plan = replace(plan, folder=STATE / "finals" / study.study_name)
        finals = train_again(plan, settings, after)
    return judge(plan, settings, finals, block_of(job.spec))


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
        f"tune: pictures in {OUTPUT / 'plots'}/, every trial in {OUTPUT / 'trials.csv'}; make dashboard; "
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
        with replacing(OUTPUT) as folder:
            write_best(folder, {}, {"trials": 0})
            (folder / "trials.csv").write_text(f"trial,state,{METRIC},best\n")
            write_finals(None, folder / "finals.csv")
            (folder / "plots").mkdir()
        print("tune: no trials asked for; the given values are used")
        return
    job = families.prepared(job, settings.space)
    jobs = fold_jobs(job) or (with_rate(job) if RATE not in settings.space else job,)  # each fold finds its own rate
    study = find_study(settings, jobs)
    plan = Plan(settings, jobs, job.seed, STATE / "trials" / study.study_name, job.compute)
    with recorded(lambda: open_run(study)) as recorder:
        search(study, plan, recorder)
        verdict = choose(study, plan, recorder)
        recorder.later(lambda run: log_verdict(run, study, verdict))
    write(settings, jobs[0], study, verdict, recorder.run)
    recorder.run.finish()
    tell(study, verdict, recorder.run)


if __name__ == "__main__":
    main(run, "tune")
