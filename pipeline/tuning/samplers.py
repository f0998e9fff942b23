"""How the values of trials are chosen: a sampler for each word of `tune.sampler`.

A sampler is made anew for each trial and seeded by the trial's number, so that a study that goes on after a kill asks
what the undisturbed one would have asked.
"""

from __future__ import annotations

from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler

from pipeline.tuning.settings import Tune

STARTUP = 4  # random trials before TPE has enough to go by
Build = Callable[[Tune, int, int], BaseSampler]  # of the settings, the project's seed and the trial's number


def seed_of(seed: int, number: int) -> int:
    """A seed for one trial."""
    return (seed * 1_000_003 + number) % 2**32


def tpe(settings: Tune, seed: int, number: int) -> BaseSampler:
    """Tree-structured Parzen estimator (Bergstra et al., 2011)."""
    del settings
    return optuna.samplers.TPESampler(seed=seed_of(seed, number), n_startup_trials=STARTUP, multivariate=True)


SAMPLERS: dict[str, Build] = {
    "tpe": tpe,
    "random": lambda _, seed, number: optuna.samplers.RandomSampler(seed_of(seed, number)),
}
