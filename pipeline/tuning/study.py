"""Optuna studies that are stored and go on after a kill, never restarted."""

from __future__ import annotations

import warnings

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.core.params import UserError
from pipeline.fitting.space import Plain
from pipeline.tuning.constraints import keep, unmet
from pipeline.tuning.pareto import ranked as ranked
from pipeline.tuning.settings import Tune
from pipeline.tuning.storage import opened

DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
SECONDS = "seconds"  # of searching, kept with the study
# Of a trial: it runs in the stage's own process; how often it was lost, and at which epoch; epochs, or folds, it told.
ALONE, LOST, REPORTS = NOTES = ("alone", "lost", "reports")


def open_study(storage: str, name: str, settings: Tune) -> optuna.Study:
    """Open or create a study; what a kill left running is still there, with its values and its reports."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # An epoch is told again where its worker was killed before it wrote the checkpoint.
    warnings.filterwarnings("ignore", "The reported value is ignored")
    study = optuna.create_study(
        study_name=name,
        storage=opened(storage),
        directions=[StudyDirection.MINIMIZE] * len(settings.objectives),
        load_if_exists=True,
    )
    keep(study, settings)
    return study


def ask_first(study: optuna.Study, given: list[Plain]) -> None:
    """Have these values asked before any other; those that a kill left out are added."""
    for values in given[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial(values)


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ended, whichever way."""
    return study.get_trials(deepcopy=False, states=DONE)


def unfinished(study: optuna.Study) -> list[Trial]:
    """The trials that a kill left running, to be gone on with."""
    return [Trial(study, each._trial_id) for each in study.get_trials(states=(TrialState.RUNNING,))]


def seconds_spent(study: optuna.Study) -> float:
    """Seconds of searching, over all sessions."""
    return float(study.user_attrs.get(SECONDS, 0.0))


def best(study: optuna.Study) -> FrozenTrial:
    """The best finished trial: of one objective the lowest, of several the lowest validation loss on the front.

    Raises:
        UserError: none finished; says why the last one failed, or which constraint none keeps.
    """
    if found := ranked(study):
        return found[0]
    if any(broken > 0 for t in ended(study) for broken in t.constraints.values()):
        raise UserError(f"{unmet(study)} (study '{study.study_name}')")
    reasons = [t.user_attrs["reason"] for t in ended(study) if "reason" in t.user_attrs]
    raise UserError(
        f"no trial of the study '{study.study_name}' finished"
        + (f"; the last failed with {reasons[-1]}" if reasons else "")
        + "; widen tune.space, give more tune.trials or tune.minutes, or set tune.trials to 0"
    )
