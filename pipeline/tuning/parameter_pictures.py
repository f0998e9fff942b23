"""Pictures of what the parameters of a study did: Optuna's own, through matplotlib."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
from matplotlib.axis import Axis
from matplotlib.collections import Collection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from optuna.visualization import matplotlib as optunas

from pipeline.tuning.drawing import Drawing, figure_of
from pipeline.tuning.task import METRIC

BLUES = ListedColormap(mpl.colormaps["Blues"](np.linspace(0.3, 1, 256)))  # of which none is white
TICKS = 4  # numbers on the axis of a small picture, about
SPREAD = 8  # finished trials from which on a contour is more than a guess
PAIRED = 3  # parameters that are drawn against each other, the most important first


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
    first = figure.axes[0]
    first.collections[0].set_cmap(BLUES.reversed())
    for each in figure.axes:
        each.tick_params(which="both", labelsize=7)
    first.set_xticks(range(1 + len(names)), [METRIC, *map(wrapped, sorted(names))], rotation=0)
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
        few_ticks(each.xaxis, drawing)
        each.set_xlabel(wrapped(each.get_xlabel()))
        for dots in each.collections[:1]:
            colour(dots, max(trial.number for trial in drawing.finished))
    figure.suptitle(f"{METRIC} against each parameter", fontsize=11)
    return figure


def colour(dots: Collection, last: int) -> None:
    """Colour dots by the number of their trial, up to the last one, alike in every part of a picture."""
    dots.set_cmap(BLUES)
    dots.set_clim(0, max(last, 1))
    if dots.colorbar is not None:
        dots.colorbar.locator = MaxNLocator(integer=True)
        dots.colorbar.update_ticks()


def few_ticks(axis: Axis, drawing: Drawing) -> None:
    """So few numbers on the axis of a parameter that none stands on another; names of categories stay."""
    locator = axis.get_major_locator()
    if isinstance(locator, LogLocator):
        low, high = sorted(axis.get_view_interval())
        decades = math.log10(high / low)
        parts = (1.0,) if decades >= 2 else (1.0, 3.0) if decades >= 1 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=parts, numticks=TICKS) if decades > 0.4 else MaxNLocator(2))
        if decades < 2:
            axis.set_major_formatter(lambda value, place: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    elif isinstance(locator, MaxNLocator):
        axis.set_major_locator(MaxNLocator(TICKS, integer=drawing.whole(axis.get_label_text())))


def wrapped(name: str) -> str:
    """The name of a parameter with a line for each part."""
    return name.replace(".", ".\n")


def contour(drawing: Drawing) -> Figure | None:
    """The value over pairs of the most important parameters."""
    names = drawing.leading[:PAIRED]
    if len(names) < 2 or not drawing.telling or len(drawing.finished) < SPREAD:
        return None
    size = (7, 5) if len(names) == 2 else (11, 9)
    figure = figure_of(optunas.plot_contour(drawing.study, names, **drawing.target), "", size)
    for each in figure.axes[: len(names) ** 2 if len(names) > 2 else 1]:
        few_ticks(each.xaxis, drawing)
        few_ticks(each.yaxis, drawing)
    figure.suptitle(f"{METRIC} over pairs of parameters", fontsize=11, y=0.93)
    return figure
