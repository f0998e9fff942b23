"""The MLflow runs of a study's trainings: one child of the tuning run for each, whatever was killed when."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial

from pipeline import tracking
from pipeline.tuning.curves import Curves
from pipeline.tuning.finals import Final, Setting
from pipeline.tuning.results import Curve, log_final, log_trial
from pipeline.tuning.study import ended


def whole(run: tracking.Run, tag: str) -> set[str]:
    """What child runs of a kind are told by; one that a kill left half written, or a second one, is deleted."""
    there: set[str] = set()
    for child in run.children():
        name = child.tags.get(tag, "")
        if name and (name in there or not child.ended):
            child.run.delete()
        else:
            there.add(name)
    return there


class Children:
    """Logs trials, first those that ended in earlier sessions and are not there; made before the search begins.

    An ended trial's curve lies on disk until its run is written.
    """

    def __init__(self, study: optuna.Study, curves: Curves) -> None:
        self.curves, self.past = curves, ended(study)

    def catch_up(self, run: tracking.Run) -> None:
        """Log what is missing."""
        there = whole(run, "trial") if self.past else set()
        for trial in self.past:
            if str(trial.number) not in there:
                self.add(run, trial, self.curves.kept(trial.number) or reported(trial))
            self.curves.drop(trial.number)

    def add(self, run: tracking.Run, trial: FrozenTrial, curve: Curve) -> None:
        """Log a trial that ended."""
        log_trial(run, trial, curve)
        self.curves.drop(trial.number)


class Again:
    """The same for trainings on fresh seeds, which are handed over in every session."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves
        self.there: set[str] = set()

    def catch_up(self, run: tracking.Run) -> None:
        """See what is there."""
        self.there = whole(run, "final")

    def add(self, run: tracking.Run, number: int, setting: Setting, seed: int, final: Final) -> None:
        """Log one that ended, unless it is there."""
        if str(number) not in self.there:
            log_final(run, number, setting, seed, final, self.curves.kept(number))
        self.curves.drop(number)


def reported(trial: FrozenTrial) -> Curve:
    """What the study knows of a trial's epochs, where more is not kept any more, as in another MLflow store."""
    return [{"val_loss": value} for _, value in sorted(trial.intermediate_values.items())]
