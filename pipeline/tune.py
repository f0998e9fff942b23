"""Stage `tune`: which hyperparameters? TPE with Hyperband over `tune.space`; writes `best.yaml`."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import optuna
import yaml
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import Field
from tqdm import tqdm

from models.params import Model
from pipeline import study as studies
from pipeline import tracking
from pipeline.core.params import Section, section
from pipeline.core.project import Seed
from pipeline.core.stage import DATA, main, replacing
from pipeline.fitting import families
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train, fit
from pipeline.fitting.job import make_job
from pipeline.fitting.lineage import data_digest, digest
from pipeline.fitting.ratefinder import with_rate
from pipeline.fitting.recorder import recorded
from pipeline.fitting.space import Space, check, override

OUTPUT = DATA / "tune"
METRIC = "val_loss"
RATE = "train.lr"


class Tune(Section):
    """The `tune` section."""

    trials: int = Field(
        12,
        ge=0,
        le=100_000,
        description="Trials, counted over resumed sessions; 0 trains with the given values.",
    )
    minutes: float = Field(
        2.0, gt=0, le=100_000, description="No trial begins after this many minutes inside trials."
    )
    max_epochs: int = Field(4, ge=1, le=10_000, description="Epochs of a trial that is not pruned.")
    reduction: int = Field(3, ge=2, le=10, description="Hyperband keeps one trial in so many at each rung.")
    space: Space = Field(
        default_factory=dict, description="Dotted keys of 'model' and 'train' with what they may be."
    )


def objective(trial: Trial, job: Job, space: Space, curves: list[dict[str, float]]) -> float:
    """Fit the trial's values on train and return the last validation loss, reported at each epoch."""
    values = {name: domain.suggest(trial, name) for name, domain in space.items()}
    chosen = Job(
        families.settled(job.model, values, space), override(job.train, "train", values),
        job.spec, job.transform, job.train_folder, job.val_folder, job.seed, job.compute,
    )  # fmt: skip

    def report(epoch: int, metrics: dict[str, float]) -> None:
        curves.append(metrics)
        trial.report(metrics[METRIC], epoch + 1)
        if epoch + 1 < chosen.train.max_epochs and trial.should_prune():
            raise optuna.TrialPruned

    fit(with_rate(chosen), [report])
    return curves[-1][METRIC]


def log_trial(parent: tracking.Run, trial: FrozenTrial, curves: list[dict[str, float]]) -> None:
    """Log one trial as a child of the tuning run."""
    tags = {"state": trial.state.name.lower(), **{k: str(v) for k, v in trial.user_attrs.items()}}
    run = tracking.start(f"trial-{trial.number}", tags, parent)
    run.params(trial.params)
    for epoch, metrics in enumerate(curves):
        run.metrics(metrics, epoch)
    run.finish("FAILED" if trial.state == TrialState.FAIL else "FINISHED")


def write_table(study: optuna.Study, path: Path, space: Space) -> None:
    """Write every trial as a row: number, state, value, best value so far, epochs, parameters."""
    best = float("inf")
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial", "state", METRIC, "best", "epochs", "seconds", *space])
        for trial in studies.counted(study):
            value = trial.value if trial.value is not None else ""
            best = min(best, trial.value) if trial.state == TrialState.COMPLETE and trial.value else best
            seconds = trial.duration.total_seconds() if trial.duration else 0
            shown = best if best < float("inf") else ""
            values = [trial.params.get(name, "") for name in space]
            table.writerow(
                [trial.number, trial.state.name.lower(), value, shown,
                 len(trial.intermediate_values), round(seconds, 2), *values]
            )  # fmt: skip


def draw(study: optuna.Study, folder: Path) -> None:
    """Optuna's own pictures of the study: history and slices."""
    import matplotlib as mpl
    from optuna.visualization import matplotlib as pictures

    mpl.use("agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = pictures.plot_optimization_history(study).get_figure(root=True)
        slices = np.atleast_1d(np.asarray(pictures.plot_slice(study))).flat[0].get_figure(root=True)
    assert history is not None
    history.savefig(folder / "history.png", dpi=80)
    slices.savefig(folder / "slices.png", dpi=60)


def write_best(folder: Path, values: dict[str, object], about: dict[str, object]) -> None:
    """Write `best.yaml`, which `train` lays over the given values."""
    note = "# Written by the stage tune; train lays these values over params.yaml, which stays as it is.\n"
    content = yaml.safe_dump({"params": values, **about}, sort_keys=False)
    (folder / "best.yaml").write_text(note + content)


def find_study(settings: Tune, job: Job) -> optuna.Study:
    """The stored study of these data, this space and these base values; a new one asks the given values first."""
    base = {"model": job.model.model_dump(), "train": job.train.model_dump()}
    space = {name: domain.model_dump() for name, domain in settings.space.items()}
    key = digest(base, space, settings.reduction, job.seed, data_digest(job.train_folder, job.val_folder))
    storage = section("tracking", tracking.Tracking).studies
    study = studies.open_study(storage, f"{job.spec.source}-{key}", job.train.max_epochs, settings.reduction)
    if not study.get_trials(deepcopy=False):
        for values in families.first_trials(given(settings.space, job), settings.space):
            study.enqueue_trial(values)  # the given values are the ones to beat
    return study


def open_run(study: optuna.Study) -> tracking.Run:
    """The MLflow run of a study: that of its earlier sessions, where the store in force knows it."""
    key = f"run {tracking.uri()}"
    run = tracking.Run(study.user_attrs[key]) if key in study.user_attrs else None
    if run is None or not run.exists():
        run = tracking.start("tune", {"stage": "tune", "study": study.study_name})
        study.set_user_attr(key, run.id)
    return run


def run_study(settings: Tune, job: Job) -> tuple[optuna.Study, FrozenTrial, tracking.Run]:
    """Search until the budget is spent, logging the study and each trial to MLflow."""
    study = find_study(settings, job)
    curves: list[dict[str, float]] = []
    done = len(studies.counted(study))
    with (
        recorded(lambda: open_run(study)) as recorder,
        tqdm(total=settings.trials, initial=done, desc="tune", unit=" trials") as bar,
    ):

        def after(trial: FrozenTrial) -> None:
            told = list(curves)
            curves.clear()
            recorder.later(lambda run: log_trial(run, trial, told))
            bar.update()
            if any(t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)):
                bar.set_postfix_str(f"best {METRIC} {study.best_value:.4f}")

        studies.search(
            study, lambda trial: objective(trial, job, settings.space, curves),
            settings.trials, settings.minutes, job.seed, after,
        )  # fmt: skip
    best = studies.best(study)
    for name, entry in families.compared(studies.counted(study)).items():
        recorder.run.tags({f"family.{name}": f"best {METRIC} {entry['best']} of {entry['trials']} trials"})
    recorder.run.tags({f"best.{name}": str(value) for name, value in best.params.items()})
    recorder.run.metrics({METRIC: best.value or 0.0, "trials": len(studies.counted(study))})
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
    if RATE not in settings.space:
        job = with_rate(job)
    study, best, mlrun = run_study(settings, job)
    counts = [t.state for t in studies.counted(study)]
    compared = families.compared(studies.counted(study))
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
