"""How bad trials are ended early: a pruner for each word of `tune.pruner`, and what a trial reports to it.

Without folds a trial reports its validation loss after each epoch. With folds, which are fitted one after the other, it
reports after each fold: to `wilcoxon` that fold's loss, as it compares fold by fold, to others the mean so far.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from pipeline.tuning.settings import FIRST_FOLDS, Tune
from pipeline.tuning.task import METRIC, Report

STARTUP = 4  # whole trials before there is a median to compare with
HALVINGS = 3  # of successive halving at most
DOUBT = 0.15  # the p-value below which a trial is ended: three folds of three that are worse have 0.125
Build = Callable[[Tune, int], BasePruner]  # of the settings and the number of reports of a whole trial


def median(settings: Tune, reports: int) -> BasePruner:
    """Ends what is worse than the median of earlier trials at the same report, after a quarter of the whole."""
    del settings
    return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=1 + reports // 4)


class Halving(BasePruner):
    """Successive halving, asynchronous (Li et al., 2020): at each rung one trial of so many goes on.

    It decides as Optuna's does, from the stored reports alone: Optuna's notes a rung before the answer is known, so a
    trial whose stage was killed in between would never be ended there. A trial has for rivals all that reported at its
    rung, of whatever bracket: with rivals of its own bracket alone, the first of each bracket would go on to the end.

    Args:
        rungs: the reports at which it decides, in order.
        reduction: of so many trials one goes on.
        brackets: of Hyperband, each beginning a rung later than the one before. That of no rung, a plain random search,
            is left out: where a study has few trials it takes most of the epochs.
    """

    def __init__(self, rungs: Sequence[int], reduction: int, brackets: int = 1) -> None:
        self.rungs, self.reduction = tuple(rungs), reduction
        self.turns = (
            [turn for turn in turns(reduction, brackets + 1) if turn < brackets] if brackets > 1 else [0]
        )

    def bracket(self, number: int) -> int:
        """The bracket of a trial, which follows from its number."""
        return self.turns[number % len(self.turns)]

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """True where the trial is at a rung and too bad to go on."""
        step = trial.last_step
        if step not in self.rungs[self.bracket(trial.number) :]:
            return False
        value = trial.intermediate_values[step]
        rivals = [
            each.intermediate_values.get(step, math.nan)
            for each in study.get_trials(deepcopy=False)
            if each.number != trial.number
        ]
        values = sorted([value, *(rival for rival in rivals if not math.isnan(rival))])
        return math.isnan(value) or value > values[max(1, len(values) // self.reduction) - 1]


def rungs(reports: int, reduction: int) -> list[int]:
    """The reports at 1 / `reduction` of the whole, at that part of it, and so on, in order; they are the paper's.

    >>> rungs(27, 3), rungs(20, 3), rungs(4, 3), rungs(2, 3)
    ([1, 3, 9], [2, 7], [1], [])
    """
    found: list[int] = []
    while reduction ** (len(found) + 1) <= reports:
        found.insert(0, round(reports / reduction ** (len(found) + 1)))
    return found


def turns(reduction: int, brackets: int) -> list[int]:
    """The brackets of one trial after the other, each as often as Hyperband gives it trials, and evenly spread.

    >>> turns(3, 2)
    [0, 1, 0, 1, 0]
    """
    each = [math.ceil(brackets * reduction**left / (left + 1)) for left in range(brackets - 1, -1, -1)]
    found: list[int] = []
    for at in range(1, sum(each) + 1):
        owed = [at * count / sum(each) - found.count(bracket) for bracket, count in enumerate(each)]
        found.append(owed.index(max(owed)))
    return found


def halving(settings: Tune, reports: int) -> BasePruner:
    """Successive halving, which looks at a trial some times before it is whole."""
    return Halving(rungs(reports, settings.reduction)[-HALVINGS:], settings.reduction)


def hyperband(settings: Tune, reports: int) -> BasePruner:
    """Hyperband (Li et al., 2018), its brackets one beside the other."""
    found = rungs(reports, settings.reduction)
    return Halving(found, settings.reduction, max(1, len(found)))


def wilcoxon(settings: Tune, reports: int) -> BasePruner:
    """Wilcoxon's signed-rank test against the best trial, fold by fold."""
    del settings, reports
    return optuna.pruners.WilcoxonPruner(p_threshold=DOUBT, n_startup_steps=FIRST_FOLDS)


PRUNERS: dict[str, Build] = {
    "none": lambda *_: optuna.pruners.NopPruner(), "median": median, "halving": halving, "hyperband": hyperband,
    "wilcoxon": wilcoxon,
}  # fmt: skip


def pruner_of(settings: Tune, folds: int) -> BasePruner:
    """The pruner of a whole study, whose trials fit so many folds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PRUNERS[settings.pruner](settings, settings.max_epochs if folds <= 1 else folds)


class Point(NamedTuple):
    """What a pruner is told."""

    step: int
    value: float


def point(settings: Tune, folds: int, report: Report, told: Mapping[tuple[int, int], Report]) -> Point | None:
    """What the pruner is told of an epoch; None where it is told nothing.

    `told` is all that the trial has told so far, by fold and epoch. Several objectives have no pruner, since none can
    say which of two trials is worse.
    """
    if len(settings.objectives) > 1:
        return None
    step, value = report.epoch + 1, report.metrics[METRIC]
    if folds <= 1:
        return Point(step, value)
    if step < settings.max_epochs:
        return None
    if settings.pruner == "wilcoxon":
        return Point(report.fold + 1, value)
    ends = {
        fold: told[fold, epoch].metrics[METRIC] for fold, epoch in sorted(told)
    }  # by patience, at any epoch
    return Point(report.fold + 1, fmean(ends[fold] for fold in range(report.fold + 1)))
