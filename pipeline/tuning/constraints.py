"""What a model must keep to be chosen: `tune.constraints`, told to Optuna, so that samplers that know them use them."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.tuning.settings import Constraints, Tune

LIMITS = "limits"  # a note with a study: its constraints, by name


def limits(constraints: Constraints) -> dict[str, float]:
    """The constraints that are asked for, by name."""
    return {name: float(limit) for name, limit in constraints.model_dump().items() if limit}


def keep(study: Study, settings: Tune) -> None:
    """Note with a study what its trials must keep."""
    study.set_user_attr(LIMITS, limits(settings.constraints))


def constrain(trial: Trial, measures: dict[str, float], constraints: Constraints) -> None:
    """Tell Optuna how far a trial keeps each constraint that it was measured for: above 0 it does not.

    Relative to the limit, since samplers add up what is broken.
    """
    for name, limit in limits(constraints).items():
        if name in measures and name not in trial.constraints:
            trial.set_constraint(name, measures[name] / limit - 1)


def feasible(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that keep every constraint."""
    return [each for each in trials if all(broken <= 0 for broken in each.constraints.values())]


def unmet(study: Study) -> str:
    """Which constraint no trial keeps, how near one came, and what to do; of a study with none that is feasible."""
    measured = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    for name, limit in study.user_attrs.get(LIMITS, {}).items():
        known = [each for each in measured if name in each.constraints]
        nearest = min(known, key=lambda each: each.constraints[name], default=None)
        if nearest is not None and nearest.constraints[name] > 0:
            return (
                f"no trial keeps tune.constraints.{name}: the nearest, trial {nearest.number}, has "
                f"{nearest.user_attrs[name]:.6g} and the limit is {limit:g}; raise the limit, or let tune.space reach "
                "smaller models"
            )
    names = ", ".join(study.user_attrs.get(LIMITS, {}))
    return (
        f"no trial that was fitted to the end keeps all of tune.constraints ({names}) at once, though each of them is "
        "kept by some trial; raise a limit, or give more tune.trials"
    )
