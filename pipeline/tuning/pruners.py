"""How bad trials are ended early: a pruner for each word of `tune.pruner`."""

from __future__ import annotations

from collections.abc import Callable

import optuna
from optuna.pruners import BasePruner

from pipeline.tuning.settings import Tune

Build = Callable[[Tune, int], BasePruner]  # of the settings and the number of reports of a whole trial


def hyperband(settings: Tune, reports: int) -> BasePruner:
    """Hyperband (Li et al., 2018), its brackets one after the other."""
    return optuna.pruners.HyperbandPruner(1, reports, settings.reduction)


PRUNERS: dict[str, Build] = {"none": lambda *_: optuna.pruners.NopPruner(), "hyperband": hyperband}
