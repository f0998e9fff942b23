"""Pictures of a study: Optuna's own, through matplotlib, the folds and the finals. What says nothing is not drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as optunas

from pipeline.core.tables import write_csv
from pipeline.tuning.pareto import loss
from pipeline.tuning.task import METRIC
from pipeline.tuning.verdict import Verdict

mpl.use("agg")
SHOWN, PAIRED = 8, 3  # parameters at most, the most important first; and of those drawn against each other
ENOUGH = 4  # different values from which on importances and contours say anything
NAMED = 12  # trials that a legend names at most
DPI = 90


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

    @property
    def leading(self) -> list[str]:
        """The parameters that varied, the most important first."""
        return sorted(self.varied, key=lambda name: -self.importances.get(name, 0.0))[:SHOWN]


def history(drawing: Drawing) -> Figure | None:
    """Every trial's value, and the best so far."""
    if not drawing.finished:
        return None
    return figure_of(
        optunas.plot_optimization_history(drawing.study, **drawing.target), "Every trial", (8, 4.5)
    )


def importance(drawing: Drawing) -> Figure | None:
    """How much of the differences each parameter explains."""
    if not drawing.importances:
        return None
    names = list(drawing.importances)[::-1]
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(names)), layout="constrained")
    axes = figure.add_subplot(
        xlabel=f"share of the differences in {METRIC}", title="Importance of parameters"
    )
    bars = axes.barh(names, [drawing.importances[name] for name in names], color="#2563a8")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.margins(x=0.1)
    return figure


def parallel(drawing: Drawing) -> Figure | None:
    """Each trial as a line across its parameters."""
    names = drawing.leading
    if len(names) < 2:
        return None
    axes = optunas.plot_parallel_coordinate(drawing.study, names, **drawing.target)
    figure = figure_of(axes, "Each trial as a line", (3 + 1.5 * len(names), 5.5))
    for each in figure.axes:
        each.tick_params(which="both", labelsize=7)
        each.set_xticks(
            each.get_xticks(), [label.get_text() for label in each.get_xticklabels()], rotation=20, ha="right"
        )
    return figure


def slices(drawing: Drawing) -> Figure | None:
    """The value against each parameter alone."""
    names = drawing.leading
    if not names:
        return None
    figure = figure_of(
        optunas.plot_slice(drawing.study, names, **drawing.target), "", (2.2 + 2 * len(names), 3.6)
    )
    for each in figure.axes:
        each.set_xlabel(each.get_xlabel().replace(".", ".\n"))
    figure.suptitle(f"{METRIC} against each parameter", fontsize=11)
    return figure


def contour(drawing: Drawing) -> Figure | None:
    """The value over pairs of the most important parameters."""
    names = drawing.leading[:PAIRED]
    if len(names) < 2 or not drawing.telling:
        return None
    size = (7, 5) if len(names) == 2 else (11, 9)
    figure = figure_of(optunas.plot_contour(drawing.study, names, **drawing.target), "", size)
    figure.suptitle(f"{METRIC} over pairs of parameters", fontsize=11)
    return figure


def epochs(drawing: Drawing) -> Figure | None:
    """The curve of each trial, as far as it went."""
    curves = [trial for trial in drawing.study.get_trials(deepcopy=False) if trial.intermediate_values]
    if not curves:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="epoch, or fold", ylabel=METRIC, title="Curves of the trials; dashed: pruned"
    )
    chosen = drawing.verdict.winner.trial
    for trial in curves:
        steps, values = zip(*sorted(trial.intermediate_values.items()), strict=True)
        style = ("--", 0.5) if trial.state == TrialState.PRUNED else ("-", 0.9)
        width = 2.5 if trial.number == chosen else 1
        axes.plot(
            steps, values, style[0], marker=".", linewidth=width, alpha=style[1], label=str(trial.number)
        )
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


DRAWINGS: dict[str, Callable[[Drawing], Figure | None]] = {
    "history": history, "epochs": epochs, "importances": importance, "parallel": parallel, "slices": slices,
    "contour": contour, "front": front, "folds": folds, "finals": finals,
}  # fmt: skip


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


def draw(study: optuna.Study, objectives: tuple[str, ...], verdict: Verdict, folder: Path) -> None:
    """Write all that can be drawn to `plots/`, and the importances as a table."""
    drawing = Drawing(study, objectives, verdict)
    (folder / "plots").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_csv(folder / "importances.csv", ["parameter", "importance"], list(drawing.importances.items()))
        for name, picture in DRAWINGS.items():
            with mpl.rc_context():  # Optuna's functions change the style for good
                figure = picture(drawing)
                if figure is not None:
                    figure.savefig(folder / "plots" / f"{name}.png", dpi=DPI, bbox_inches="tight")
    plt.close("all")
