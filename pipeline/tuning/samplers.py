"""How the values of trials are chosen: a sampler for each word of `tune.sampler`.

Each is made anew for each trial and seeded by the trial's number, and by the key where keys are drawn one by one: a
study that goes on after a kill, even one in the midst of asking, asks what the undisturbed one would have asked.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from pipeline.fitting.conditions import always, combinations, drawn, needs
from pipeline.fitting.space import Plain, Space, same
from pipeline.tuning.settings import Tune

STARTUP = 4  # random trials before a model has enough to go by
POPULATION = 20  # of a generation of NSGA-II
Build = Callable[[Tune, int, list[Plain]], BaseSampler]  # of settings, seed, and values that are asked first


def seed_of(seed: int, number: int, name: str = "") -> int:
    """A seed for one trial, and one key of it."""
    return (seed * 1_000_003 + number + zlib.crc32(name.encode())) % 2**32


class ByNumber(BaseSampler):
    """Values that depend on the trial's number alone, so on no timing; a key that is missing takes its middle value."""

    def __init__(self, point: Callable[[int], Plain], space: Space) -> None:
        self.point, self.space = point, space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn together."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Plain:
        """Nothing is drawn together."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of one key."""
        return self.point(trial.number).get(param_name, self.space[param_name].at(0.5))


class Fresh(BaseSampler):
    """A sampler of Optuna's, made anew for whatever is asked of it."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self.make, self.seed = make, seed
        self.current = self._made(0)

    def _made(self, number: int, name: str = "") -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self.make(seed_of(self.seed, number, name))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        self.current = self._made(trial.number)
        return self.current.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Plain:
        """The values that are drawn together."""
        return self.current.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of one key."""
        sampler = self._made(trial.number, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class Gaussian(optuna.samplers.GPSampler):
    """Optuna's, over the keys that every trial has; asked again after a kill it gives what it had stored."""

    def __init__(self, space: dict[str, BaseDistribution], seed: int, startup: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        self.space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        return dict(self.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Plain:
        """The values that are drawn together; Optuna takes those it stored for those of a trial beside this one."""
        stored = {k: v for k, v in trial.system_attrs.items() if k.startswith("gp:relative_params:")}
        if stored:
            parts = sorted(stored, key=lambda key: int(key.rpartition(":")[2]))
            kept: Plain = json.loads("".join(stored[key] for key in parts))
            return kept
        return super().sample_relative(study, trial, search_space)


class Evolving(optuna.samplers.CmaEsSampler):
    """Optuna's CMA-ES, over the numbers that every trial has."""

    def __init__(self, space: dict[str, BaseDistribution], seed: int, pruned: bool) -> None:
        super().__init__(seed=seed, warn_independent_sampling=False, consider_pruned_trials=pruned)
        self.space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        return dict(self.space)


def common(space: Space, numbers: bool = False) -> dict[str, BaseDistribution]:
    """The distributions of the keys that every trial has and that can vary; of numbers alone where asked."""
    found = {name: space[name].distribution() for name in sorted(always(space))}
    return {
        name: each
        for name, each in found.items()
        if not each.single() and not (numbers and isinstance(each, CategoricalDistribution))
    }


def random(settings: Tune, seed: int, given: list[Plain]) -> BaseSampler:
    """Random search (Bergstra and Bengio, 2012)."""
    del given
    space = settings.space

    def point(number: int) -> Plain:
        shares = np.random.default_rng((seed, number)).random(len(space))
        return {name: space[name].at(share) for name, share in zip(space, shares.tolist(), strict=True)}

    return ByNumber(point, space)


def quasi_random(settings: Tune, seed: int, given: list[Plain]) -> BaseSampler:
    """A scrambled Sobol sequence (Owen, 2020), of which no point is left out: it begins after the given values."""
    from scipy.stats import qmc

    space = settings.space

    def point(number: int) -> Plain:
        if number < len(given):
            return {}
        sequence = qmc.Sobol(len(space), scramble=True, rng=np.random.default_rng(seed))
        if number > len(given):  # SciPy takes no step of 0
            sequence.fast_forward(number - len(given))
        shares = sequence.random(1)[0].tolist()
        return {name: space[name].at(share) for name, share in zip(space, shares, strict=True)}

    return ByNumber(point, space)


def points(settings: Tune, seed: int, given: list[Plain]) -> list[Plain]:
    """The points of a grid in a shuffled order, without those that are asked first in any case."""
    space = settings.space
    asked = [_asked(space, values) for values in given]
    left = [point for point in combinations(space) if not any(_equal(point, each) for each in asked)]
    order = np.random.default_rng(seed).permutation(len(left))
    return [left[at] for at in order]


def _asked(space: Space, values: Plain) -> Plain:
    return drawn(space, lambda name, _: values.get(name))


def _equal(one: Plain, other: Plain) -> bool:
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def grid(settings: Tune, seed: int, given: list[Plain]) -> BaseSampler:
    """Every combination once."""
    every = points(settings, seed, given)
    first = len(given)
    return ByNumber(
        lambda number: every[number - first] if 0 <= number - first < len(every) else {}, settings.space
    )


def tpe(settings: Tune, seed: int, given: list[Plain]) -> BaseSampler:
    """Tree-structured Parzen estimator (Bergstra et al., 2011); keys that are always asked together, drawn together."""
    del given
    grouped = any(needs(name, settings.space) for name in settings.space)

    def make(own: int) -> BaseSampler:
        return optuna.samplers.TPESampler(
            seed=own, n_startup_trials=STARTUP, multivariate=True, group=grouped, constant_liar=True
        )

    return Fresh(make, seed)


def gp(settings: Tune, seed: int, given: list[Plain]) -> BaseSampler:
    """A Gaussian process with the logarithm of the expected improvement (Ament et al., 2023)."""
    del given
    space = common(settings.space)
    startup = min(max(STARTUP, len(space) + 1), 10)
    return Fresh(lambda own: Gaussian(space, own, startup), seed)


def cma_es(settings: Tune, seed: int, given: list[Plain]) -> BaseSampler:
    """Covariance matrix adaptation (Hansen and Ostermeier, 2001); its state is kept with the trials."""
    del given
    space, pruned = common(settings.space, numbers=True), settings.pruner in ("halving", "hyperband")
    return Fresh(lambda own: Evolving(space, own, pruned), seed)


def nsga_ii(settings: Tune, seed: int, given: list[Plain]) -> BaseSampler:
    """NSGA-II with the crossover and mutation of its paper (Deb et al., 2002); generations are kept with the trials."""
    del settings, given

    def make(own: int) -> BaseSampler:
        crossover, mutation = (
            optuna.samplers.nsgaii.SBXCrossover(),
            optuna.samplers.nsgaii.PolynomialMutation(),
        )
        return optuna.samplers.NSGAIISampler(
            seed=own, population_size=POPULATION, crossover=crossover, mutation=mutation
        )

    return Fresh(make, seed)


SAMPLERS: dict[str, Build] = {
    "grid": grid, "random": random, "quasi-random": quasi_random, "tpe": tpe, "gp": gp, "cma-es": cma_es,
    "nsga-ii": nsga_ii,
}  # fmt: skip


def asked_first(study: Study) -> list[Plain]:
    """The values that the study was given to begin with."""
    trials = study.get_trials(deepcopy=False)
    return [each.system_attrs["fixed_params"] for each in trials if "fixed_params" in each.system_attrs]


def sampler_of(study: Study, settings: Tune, seed: int) -> BaseSampler:
    """The sampler of a whole study."""
    return SAMPLERS[settings.sampler](settings, seed, asked_first(study))


def trials_at_most(study: Study, settings: Tune, seed: int) -> int:
    """`tune.trials`, or what a grid has, which ends there."""
    if settings.sampler != "grid":
        return settings.trials
    given = asked_first(study)
    return min(settings.trials, len(given) + len(points(settings, seed, given)))
