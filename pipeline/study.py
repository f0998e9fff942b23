"""Optuna studies that are stored and resumed, never restarted."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.core.params import UserError

INTERRUPTED = "interrupted"
STARTUP = 4  # random trials before TPE has enough to go by
DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
Objective = Callable[[Trial], float]


class Hyperband(optuna.pruners.HyperbandPruner):
    """Hyperband to which trials that a kill interrupted never were: brackets go by place, not by number."""

    def __init__(self, interrupted: list[int], max_epochs: int, reduction: int) -> None:
        super().__init__(1, max_epochs, reduction)
        self._interrupted = interrupted

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        if trial.number in self._interrupted:
            return -1  # in no bracket
        placed = copy.copy(trial)
        placed.number -= sum(number < trial.number for number in self._interrupted)
        return super()._get_bracket_id(study, placed)


def open_study(storage: str, name: str, max_epochs: int, reduction: int) -> optuna.Study:
    """Open or create the study; a trial that a kill left running is failed, and the next one repeats it.

    `search` asks for the same values again, as it seeds by place; values that were given are queued again.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if storage.startswith("sqlite:///"):
        Path(storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=True)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, "reason", INTERRUPTED)
        study.tell(trial.number, state=TrialState.FAIL)
    failed = study.get_trials(states=(TrialState.FAIL,))
    interrupted = [trial for trial in failed if trial.user_attrs.get("reason") == INTERRUPTED]
    repeated = {trial.user_attrs.get("repeats") for trial in study.get_trials(deepcopy=False)}
    for trial in interrupted:
        if (given := trial.system_attrs.get("fixed_params")) and trial.number not in repeated:
            study.enqueue_trial(given, user_attrs={"repeats": trial.number})
    study.pruner = Hyperband([trial.number for trial in interrupted], max_epochs, reduction)
    return study


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that the budget counts: all that ended, except those that a kill interrupted."""
    return [t for t in study.get_trials(states=DONE) if t.user_attrs.get("reason") != INTERRUPTED]


def seconds_spent(study: optuna.Study) -> float:
    """Seconds inside ended trials, over all sessions."""
    return sum(t.duration.total_seconds() for t in counted(study) if t.duration is not None)


def search(
    study: optuna.Study,
    objective: Objective,
    trials: int,
    minutes: float,
    seed: int,
    after: Callable[[FrozenTrial], None],
) -> None:
    """Ask, run and tell until the budget of trials or of minutes is spent, over all sessions.

    The sampler is seeded anew for each trial from the trial's number, so that a resumed study asks what
    the undisturbed one would have asked.
    """
    while (done := len(counted(study))) < trials and seconds_spent(study) < 60 * minutes:
        study.sampler = optuna.samplers.TPESampler(
            seed=(seed * 1_000_003 + done) % 2**32, n_startup_trials=STARTUP, multivariate=True
        )
        trial = study.ask()
        try:
            value = objective(trial)
            if not math.isfinite(value):
                raise ValueError(f"the trial ended with the value {value}")
            study.tell(trial, value)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except (RuntimeError, ValueError, MemoryError) as error:
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}"[:500])
            study.tell(trial, state=TrialState.FAIL)
        after(study.get_trials(deepcopy=False)[trial.number])


def best(study: optuna.Study) -> FrozenTrial:
    """The best finished trial.

    Raises:
        UserError: none finished; says why the last one failed.
    """
    if any(t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)):
        return study.best_trial
    reasons = [t.user_attrs["reason"] for t in counted(study) if "reason" in t.user_attrs]
    raise UserError(
        f"no trial of the study '{study.study_name}' finished"
        + (f"; the last failed with {reasons[-1]}" if reasons else "")
        + "; widen tune.space, give more tune.trials or tune.minutes, or set tune.trials to 0"
    )
