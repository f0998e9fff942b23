"""The MLflow runs of a study's trials: one child of the tuning run for each, whatever was killed when."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial

from pipeline import tracking
from pipeline.tuning.curves import Curves
from pipeline.tuning.results import log_trial
from pipeline.tuning.study import ended


class Children:
    """Logs trials, first those that ended in earlier sessions and are not there; made before the search begins.

    A run that a kill left half written is deleted and written anew. An ended trial's curve lies on disk until then.
    """

    def __init__(self, study: optuna.Study, curves: Curves) -> None:
        self.curves, self.past = curves, ended(study)

    def catch_up(self, run: tracking.Run) -> None:
        """Log what is missing."""
        if not self.past:
            return
        there: set[str] = set()
        for child in run.children():
            number = child.tags.get("trial", "")
            if number and (number in there or not child.ended):
                child.run.delete()
            else:
                there.add(number)
        for trial in self.past:
            if str(trial.number) not in there:
                self.add(run, trial, self.curves.kept(trial.number) or reported(trial))
            self.curves.drop(trial.number)

    def add(self, run: tracking.Run, trial: FrozenTrial, curve: list[dict[str, float]]) -> None:
        """Log a trial that ended."""
        log_trial(run, trial, curve)
        self.curves.drop(trial.number)


def reported(trial: FrozenTrial) -> list[dict[str, float]]:
    """What the study knows of a trial's epochs, where more is not kept any more, as in another MLflow store."""
    return [{"val_loss": value} for _, value in sorted(trial.intermediate_values.items())]
