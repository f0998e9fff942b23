"""How bad trials are ended early: a pruner for each word of `tune.pruner`, and what a trial reports to it.

Without folds a trial reports its validation loss after each epoch. With folds, which are fitted one after the other, it
reports after each fold: to `wilcoxon` that fold's loss, as it compares fold by fold, to others the mean so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import optuna
from optuna.pruners import BasePruner

from pipeline.tuning.settings import FIRST_FOLDS, Tune
from pipeline.tuning.trial import METRIC, Report

STARTUP = 4  # whole trials before there is a median to compare with
HALVINGS = 3  # of successive halving, from its first look to the whole
DOUBT = 0.15  # the p-value below which a trial is ended: three folds of three that are worse have 0.125
Build = Callable[[Tune, int], BasePruner]  # of the settings and the number of reports of a whole trial


def median(settings: Tune, reports: int) -> BasePruner:
    """Ends what is worse than the median of earlier trials at the same report, after a quarter of the whole."""
    del settings
    return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=1 + reports // 4)


def halving(settings: Tune, reports: int) -> BasePruner:
    """Successive halving, asynchronous (Li et al., 2020): at each look one trial in so many goes on."""
    first = max(1, reports // settings.reduction**HALVINGS)
    return optuna.pruners.SuccessiveHalvingPruner(first, settings.reduction)


def hyperband(settings: Tune, reports: int) -> BasePruner:
    """Hyperband (Li et al., 2018), its brackets one beside the other; a trial's follows from its number."""
    return optuna.pruners.HyperbandPruner(1, reports, settings.reduction)


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
    ends = [told[fold, report.epoch].metrics[METRIC] for fold in range(report.fold + 1)]
    return Point(report.fold + 1, sum(ends) / len(ends))
