"""The nested estimate: how good are models of this search on samples that no part of the search has seen?

The best of many cross-validation values is too good, as it was picked by these very folds (Cawley and Talbot, "On
over-fitting in model selection", 2010). So each fold is held out once from a search of its own, on its inner folds; the
winner is fitted on all of the fold's training part and judged on what was held out.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.core.stage import STATE
from pipeline.engine.tasks import executor
from pipeline.fitting.fit import Job
from pipeline.fitting.space import Plain
from pipeline.tuning import study as studies
from pipeline.tuning.curves import Curves
from pipeline.tuning.folded import fold_jobs, inner_jobs
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Tune
from pipeline.tuning.trial import METRIC, Task, run_trial, settled

CONFIDENCE = 0.95
JUDGED = "judged"  # the note with an inner study: how its winner did on what was held out
Find = Callable[[Tune, tuple[Job, ...]], optuna.Study]  # the stored study of some jobs


@dataclass(frozen=True)
class Outer:
    """One fold: its search's best value on the inner folds, and how that winner did on what was held out."""

    fold: int
    study: str
    values: Plain
    inner: float
    val_loss: float
    val_score: float


@dataclass(frozen=True)
class Nested:
    """The estimate beside the value of the search that it is for."""

    outer: tuple[Outer, ...]
    search: float
    val_loss: dict[str, float]
    val_score: dict[str, float]

    def plain(self) -> Plain:
        """As it is written."""
        return asdict(self) | {"outer": [asdict(each) for each in self.outer]}

    def metrics(self) -> dict[str, float]:
        """As it is logged."""
        both = {METRIC: self.val_loss, "val_score": self.val_score}
        return {f"nested_{name}_{end}": value for name, each in both.items() for end, value in each.items()}

    def __str__(self) -> str:
        loss, score = self.val_loss, self.val_score
        return (
            f"nested estimate of {METRIC} {loss['value']:.4f} ({loss['low']:.4f} to {loss['high']:.4f}), of val_score "
            f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f}); the best trial's own value, "
            f"{self.search:.4f}, is too low by {loss['value'] - self.search:+.4f}"
        )


def check(job: Job) -> tuple[Job, ...]:
    """The jobs of the outer folds.

    Raises:
        UserError: `prepare` wrote no folds, or none within them.
    """
    outer = fold_jobs(job)
    if not outer or not inner_jobs(outer[0]):
        missing = "prepare.folds.inner" if outer else "prepare.folds.number and prepare.folds.inner"
        raise UserError(f"tune.nested searches in folds within folds, and there are none; set {missing}")
    return outer


def cost(settings: Tune, outer: Sequence[Job]) -> str:
    """What the estimate costs at most, beside the search itself."""
    inner, count = len(inner_jobs(outer[0])), len(outer)
    each = settings.trials * inner + 1
    return (
        f"the nested estimate searches anew in each of {count} folds: at most {count} x ({settings.trials} trials x "
        f"{inner} inner folds + 1) x {settings.max_epochs} epochs = {count * each * settings.max_epochs} epochs, "
        f"beside {settings.trials * count * settings.max_epochs} of the search itself; minutes and joules hold for each"
    )


def estimate(settings: Tune, job: Job, search: float, find: Find) -> Nested:
    """Search within each fold, or go on with it; `search` is the value of the study on all folds.

    Raises:
        UserError: there are no folds within folds, or a search ends with nothing.
    """
    outer = check(job)
    found = tuple(_one(settings, fold, each, find) for fold, each in enumerate(outer))
    share = float(np.mean([_share(each.val_folder.parent) for each in outer]))
    return Nested(
        found, search, interval([each.val_loss for each in found], share),
        interval([each.val_score for each in found], share),
    )  # fmt: skip


def _share(fold: Path) -> float:
    """Validation over training samples of a fold, without what `augment` added."""
    return len(Dataset(fold / "val")) / len(Dataset(fold / "train"))


def _one(settings: Tune, fold: int, job: Job, find: Find) -> Outer:
    """Search on the inner folds of one fold, then judge the winner on what the fold holds out."""
    inner = inner_jobs(job)
    study = find(settings, inner)
    print(f"tune: nested: within fold {fold}, {len(inner)} inner folds")
    plan = Plan(settings, inner, job.seed, STATE / "trials" / study.study_name, job.compute)
    Coordinator(study, plan, None).run()
    best = studies.best(study)
    judged = study.user_attrs.get(JUDGED, {})
    if judged.get("trial") != best.number:
        judged = {"trial": best.number, **_judged(settings, fold, job, study, best)}
        study.set_user_attr(JUDGED, judged)
    return Outer(
        fold,
        study.study_name,
        dict(best.params),
        best.user_attrs[METRIC],
        judged[METRIC],
        judged["val_score"],
    )


def _judged(settings: Tune, fold: int, job: Job, study: optuna.Study, best: FrozenTrial) -> dict[str, float]:
    """Fit the winner on the training part of its fold, and judge it after the last epoch; goes on after a kill."""
    folder = STATE / "trials" / f"{study.study_name}-judged"
    task = Task(
        best.number, (settled(job, best.params, settings.space),), folder / str(best.number), pruned=False
    )
    curves = Curves(folder)
    curves.open(task.number)
    with executor(run_trial, lambda task, report: curves.add(task.number, report), job.compute) as pool:
        pool.submit(task)
        done = pool.wait()
    if done.error is not None:
        raise done.error
    if done.result is None or done.result.state != "complete":
        why = (
            done.result.reason
            if done.result
            else f"lost {done.lost}; run the stage again, which goes on from there"
        )
        raise UserError(f"tune.nested: the winner of fold {fold} could not be fitted on all of it: {why}")
    last = curves.close(task.number)[-1]
    shutil.rmtree(folder, ignore_errors=True)
    return {METRIC: last[METRIC], "val_score": last["val_score"]}


def interval(values: Sequence[float], share: float) -> dict[str, float]:
    """The mean over folds and the ends of its interval.

    Folds share most of their training samples, so the plain standard error is too small; theirs is corrected after
    Nadeau and Bengio, "Inference for the generalization error" (2003), by `share`, validation over training samples.

    >>> {name: round(value, 3) for name, value in interval([0.4, 0.5, 0.6], 0.5).items()}
    {'value': 0.5, 'low': 0.107, 'high': 0.893}
    """
    from scipy.stats import t

    count, mean = len(values), float(np.mean(values))
    error = math.sqrt((1 / count + share) * float(np.var(values, ddof=1)))
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return {"value": mean, "low": mean - half, "high": mean + half}
