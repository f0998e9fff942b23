"""A study as its pictures see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from pipeline.tuning.pareto import loss
from pipeline.tuning.task import METRIC
from pipeline.tuning.verdict import Verdict

SHOWN = 8  # parameters at most, the most important first
ENOUGH = 4  # different values from which on importances and contours say anything


@dataclass(frozen=True)
class Drawing:
    """A study as it is drawn: its finished trials of finite values, and the parameters that had more than one value."""

    study: optuna.Study
    objectives: tuple[str, ...]
    verdict: Verdict

    @cached_property
    def finished(self) -> list[FrozenTrial]:
        """The trials that were not pruned and did not fail."""
        whole = self.study.get_trials(states=(TrialState.COMPLETE,))
        return [trial for trial in whole if np.isfinite([loss(trial), *trial.values]).all()]

    @cached_property
    def pruned(self) -> dict[int, float]:
        """The last value of each trial that was pruned, by its number."""
        cut = self.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        told = [trial for trial in cut if trial.intermediate_values]
        last = {trial.number: trial.intermediate_values[max(trial.intermediate_values)] for trial in told}
        return {number: value for number, value in last.items() if np.isfinite(value)}

    @property
    def target(self) -> dict[str, Any]:
        """What is drawn, as Optuna's functions take it: the validation loss, also of several objectives."""
        several = {"target": loss} if len(self.objectives) > 1 else {}
        return {**several, "target_name": METRIC}

    @property
    def telling(self) -> bool:
        """True where trials differ, and enough of them."""
        return len({loss(trial) for trial in self.finished}) >= ENOUGH

    @cached_property
    def importances(self) -> dict[str, float]:
        """How much of the differences each parameter explains, the most first; empty where that cannot be told."""
        if not (self.telling and self.varied):
            return {}
        target = {"target": loss} if len(self.objectives) > 1 else {}
        found = get_param_importances(self.study, params=self.varied, **target)  # type: ignore[arg-type]
        return {name: value for name, value in found.items() if np.isfinite(value)}

    @cached_property
    def varied(self) -> list[str]:
        """The parameters that had more than one value in finished trials."""
        seen: dict[str, set[Any]] = {}
        for trial in self.finished:
            for name, value in trial.params.items():
                seen.setdefault(name, set()).add(value)
        return [name for name, values in seen.items() if len(values) > 1]

    def whole(self, name: str) -> bool:
        """True where a parameter had whole numbers alone."""
        return all(isinstance(trial.params[name], int) for trial in self.finished if name in trial.params)

    @property
    def leading(self) -> list[str]:
        """The parameters that varied, the most important first."""
        return sorted(self.varied, key=lambda name: -self.importances.get(name, 0.0))[:SHOWN]


def figure_of(axes: Axes | np.ndarray, title: str, size: tuple[float, float]) -> Figure:
    """The figure of Optuna's axes, of a size in inches and with small letters."""
    first = np.atleast_1d(np.asarray(axes)).flat[0]
    figure: Figure = first.get_figure(root=True)
    figure.set_size_inches(*size)
    first.set_title(title, fontsize=11)
    for each in figure.axes:
        each.tick_params(labelsize=8)
        each.xaxis.label.set_fontsize(9)
        each.yaxis.label.set_fontsize(9)
    return figure
