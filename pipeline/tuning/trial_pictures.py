"""Pictures of the trials of a study: their values, their curves, their folds, and the finals."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import TrialState
from optuna.visualization import matplotlib as optunas

from pipeline.tuning.drawing import Drawing, figure_of
from pipeline.tuning.task import METRIC

NAMED = 12  # trials that a legend names at most
WHOLE: dict[str, Any] = {"linestyle": "-", "marker": ".", "alpha": 0.9}
PRUNED: dict[str, Any] = {
    "linestyle": "--", "marker": "o", "markersize": 5, "markerfacecolor": "none", "alpha": 0.6,
}  # fmt: skip


def history(drawing: Drawing) -> Figure | None:
    """Every trial's value, a pruned one's where it ended, and the best so far of those that were not pruned."""
    if not drawing.finished:
        return None
    axes = optunas.plot_optimization_history(drawing.study, **drawing.target)
    if ended := drawing.pruned:
        axes.scatter(
            list(ended), list(ended.values()), facecolors="none", edgecolors="#7a8699",
            label=f"pruned, at its last {METRIC}",
        )  # fmt: skip
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure_of(axes, "Every trial", (8, 4.5))


def colours(count: int) -> list[str]:
    """As many colours, no two alike: up to 20 that are told apart easily, of more a gradual change."""
    if count > 20:
        return [to_hex(each) for each in mpl.colormaps["turbo"](np.linspace(0, 1, count))]
    dark_and_light = [to_hex(each) for each in mpl.colormaps["tab20"](range(20))]
    return [*dark_and_light[::2], *dark_and_light[1::2]][:count]


def epochs(drawing: Drawing) -> Figure | None:
    """The curve of each trial, as far as it went."""
    curves = [trial for trial in drawing.study.get_trials(deepcopy=False) if trial.intermediate_values]
    if not curves:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="epoch, or fold", ylabel=METRIC, title="Curves of the trials (hollow or dashed: pruned)"
    )
    chosen = drawing.verdict.winner.trial
    for trial, colour in zip(curves, colours(len(curves)), strict=True):
        steps, values = zip(*sorted(trial.intermediate_values.items()), strict=True)
        style = PRUNED if trial.state == TrialState.PRUNED else WHOLE
        width = 2.5 if trial.number == chosen else 1
        axes.plot(steps, values, color=colour, linewidth=width, label=str(trial.number), **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(curves) <= NAMED:
        axes.legend(title="trial", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def front(drawing: Drawing) -> Figure | None:
    """The Pareto front of two or three objectives."""
    if len(drawing.objectives) not in (2, 3) or not drawing.finished:
        return None
    axes = optunas.plot_pareto_front(drawing.study, target_names=list(drawing.objectives))
    return figure_of(axes, "Pareto front", (8, 6))


def folds(drawing: Drawing) -> Figure | None:
    """The losses of a trial's folds, and their mean."""
    rows = [
        (
            trial.number,
            [value for name, value in sorted(trial.user_attrs.items()) if name.startswith("fold ")],
        )
        for trial in drawing.finished
    ]
    if not any(values for _, values in rows):
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="trial", ylabel=METRIC, title="The folds of each trial, and their mean")
    for number, values in rows:
        axes.plot([number] * len(values), values, "o", color="#2563a8", alpha=0.5, markersize=4)
    axes.plot(
        [n for n, v in rows if v], [np.mean(v) for _, v in rows if v], "_", color="#1a2230", markersize=16
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def finals(drawing: Drawing) -> Figure | None:
    """What the search said of the best settings, and what fresh seeds say."""
    standings = [each for each in drawing.verdict.standings if each.losses]
    if not standings:
        return None
    figure = Figure(figsize=(8, 1.6 + 0.45 * len(standings)), layout="constrained")
    axes = figure.add_subplot(xlabel=METRIC, title="The best settings on fresh seeds")
    for place, each in enumerate(standings):
        row = -place
        axes.plot(
            each.losses, [row] * len(each.losses), "o", color="#2563a8", alpha=0.6, label="a fresh seed"
        )
        axes.plot(each.mean, row, "|", color="#1a2230", markersize=20, markeredgewidth=2, label="their mean")
        if each.setting.search is not None:
            axes.plot(each.setting.search, row, "x", color="#c2571a", label="the search")
    names = [
        each.setting.name + (", chosen" if each.setting == drawing.verdict.winner else "")
        for each in standings
    ]
    axes.set_yticks([-place for place in range(len(names))], names)
    axes.margins(y=0.3)
    handles, labels = axes.get_legend_handles_labels()
    seen = dict(zip(labels, handles, strict=True))
    axes.legend(seen.values(), seen.keys(), fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
