"""Which trial is the best, also of several objectives: the lowest validation loss on the Pareto front.

The front are the trials that keep the constraints and that no other one betters in one objective without being worse
in another. Of these the lowest validation loss is taken: what is given up for it is written beside it.
"""

from __future__ import annotations

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pipeline.tuning.constraints import LIMITS, feasible
from pipeline.tuning.task import METRIC


def loss(trial: FrozenTrial) -> float:
    """The validation loss of a finished trial."""
    found: float = trial.user_attrs.get(METRIC, trial.values[0])
    return found


def front(study: Study) -> list[FrozenTrial]:
    """The Pareto front among the trials that keep the constraints, the lowest validation loss first."""
    return sorted(study.best_trials, key=lambda trial: (loss(trial), trial.number))


def ranked(study: Study) -> list[FrozenTrial]:
    """The finished trials that keep the constraints, the best first: the front, then the others."""
    finished = feasible(study.get_trials(states=(TrialState.COMPLETE,)))
    first = {trial.number for trial in study.best_trials}
    return sorted(finished, key=lambda trial: (trial.number not in first, loss(trial), trial.number))


def columns(study: Study) -> dict[str, dict[int, str]]:
    """Columns of a table of trials, by number: which keep the constraints, which are on the front; none without any."""
    trials, found = study.get_trials(deepcopy=False), dict[str, dict[int, str]]()
    if study.user_attrs.get(LIMITS):
        keeping = {each.number for each in feasible(trials)}
        measured = [each.number for each in trials if each.constraints]
        found["feasible"] = {number: "yes" if number in keeping else "no" for number in measured}
    if len(study.directions) > 1:
        found["front"] = {each.number: "yes" for each in front(study)}
    return found


def written(study: Study, objectives: tuple[str, ...]) -> list[dict[str, float]]:
    """The front as it is kept in `best.yaml`: each trial's number and objectives; empty of one objective."""
    if len(objectives) == 1:
        return []
    return [
        {"trial": trial.number, **dict(zip(objectives, trial.values, strict=True))} for trial in front(study)
    ]
