"""Pictures of studies of every kind, also of those that have next to nothing to show."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
import pytest
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from optuna.trial import Trial
from PIL import Image

from pipeline.tuning.drawing import Drawing
from pipeline.tuning.finals import Setting
from pipeline.tuning.parameter_pictures import contour, parallel, slices
from pipeline.tuning.pictures import draw
from pipeline.tuning.trial_pictures import colours, epochs, history
from pipeline.tuning.verdict import Standing, Verdict

OBJECTIVES = ("val_loss", "parameters", "latency_ms", "joules")
GIVEN, BEST = Setting(0, {}, 0.31, given=True), Setting(7, {}, 0.19)
JUDGED = Verdict(BEST, "unsure", "", (8, 9), [Standing(GIVEN, (0.32, 0.33)), Standing(BEST, (0.2, 0.25))])
LUCKY = Verdict(GIVEN, "luck", "")
USUAL = {"history", "slices", "importances"}


def usual(trial: Trial) -> float:
    rate = trial.suggest_float("train.lr", 1e-3, 1e-1, log=True)
    value = (
        rate
        + 0.1 * trial.suggest_int("model.depth", 1, 3)
        + 0.05 * trial.suggest_categorical("on", [True, False])
    )
    for epoch in (1, 2):
        trial.report(value + 1 / epoch, epoch)
        if epoch == 1 and value > 0.3:
            raise optuna.TrialPruned
    trial.set_user_attr("fold 0", value - 0.01)
    trial.set_user_attr("fold 1", value + 0.01)
    return value


def conditional(trial: Trial) -> float:
    family = trial.suggest_categorical("model.family", ["cnn", "lstm"])
    heads = trial.suggest_int("model.heads", 1, 4) if family == "lstm" else 0
    return trial.suggest_int("model.width", 8, 16) * 0.1 + heads * 0.05


def alike(trial: Trial) -> float:
    return trial.suggest_float("x", 0, 1) * 0 + 1.0 + 0 * len(trial.suggest_categorical("c", ["a", "b"]))


def pruned(trial: Trial) -> float:
    trial.report(trial.suggest_float("x", 0, 1), 1)
    raise optuna.TrialPruned


def failed(trial: Trial) -> float:
    raise ValueError(trial.suggest_float("x", 0, 1))


def infinite(trial: Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    return float("inf") if x < 0.3 else x


def two(trial: Trial) -> tuple[float, ...]:
    x, width = trial.suggest_float("x", 0, 1), trial.suggest_int("model.width", 1, 20)
    return x + 1 / width, width * 100.0


def four(trial: Trial) -> tuple[float, ...]:
    return (*two(trial), 1.0, trial.params["x"])


CASES: dict[str, tuple[int, Callable[[Trial], Any], int, Verdict, set[str]]] = {
    "usual": (24, usual, 1, JUDGED, USUAL | {"epochs", "parallel", "contour", "folds", "finals"}),
    "one trial": (1, infinite, 1, LUCKY, {"history"}),
    "none": (0, usual, 1, LUCKY, set()),
    "all pruned": (4, pruned, 1, LUCKY, {"epochs"}),
    "all failed": (3, failed, 1, LUCKY, set()),
    "all alike": (5, alike, 1, LUCKY, {"history", "slices", "parallel"}),
    "conditional": (10, conditional, 1, LUCKY, USUAL | {"parallel", "contour"}),
    "one parameter, infinite": (12, infinite, 1, LUCKY, USUAL),
    "two objectives": (10, two, 2, LUCKY, USUAL | {"parallel", "contour", "front"}),
    "four objectives": (8, four, 4, LUCKY, USUAL | {"parallel", "contour"}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_there_is_to_see_is_drawn_and_nothing_else(case: str, tmp_path: Path) -> None:
    trials, objective, directions, verdict, expected = CASES[case]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        directions=["minimize"] * directions, sampler=optuna.samplers.RandomSampler(seed=1)
    )
    study.optimize(objective, trials, catch=(ValueError,))
    draw(study, OBJECTIVES[:directions], verdict, tmp_path)
    drawn = {path.stem: path for path in (tmp_path / "plots").iterdir()}
    assert set(drawn) == expected
    for path in drawn.values():
        pixels = np.asarray(Image.open(path).convert("L"), float)
        assert 120 < pixels.shape[0] < 1200
        assert 300 < pixels.shape[1] < 1900
        assert pixels.std() > 10, f"{path.name} is blank"
    rows = (tmp_path / "importances.csv").read_text().splitlines()
    assert rows[0] == "parameter,importance"
    assert (len(rows) > 1) == ("importances" in expected)


def drawing_of(objective: Callable[[Trial], Any], trials: int) -> Drawing:
    """A study of one objective as its pictures see it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, trials)
    return Drawing(study, OBJECTIVES[:1], LUCKY)


def test_the_history_shows_pruned_trials_where_they_ended() -> None:
    drawing = drawing_of(usual, 14)
    assert 0 < len(drawing.pruned) < 14
    figure = history(drawing)
    assert figure is not None
    shown = [np.asarray(each.get_offsets()) for each in figure.axes[0].collections]
    assert sum(map(len, shown)) == 14, "each trial is there once"
    assert dict(shown[-1].tolist()) == drawing.pruned
    assert not len(figure.axes[0].collections[-1].get_facecolor()), "hollow"


@pytest.mark.parametrize("count", [1, 12, 20, 21, 90])
def test_no_two_curves_have_one_colour(count: int) -> None:
    assert len(set(colours(count))) == count


def test_the_curve_of_a_pruned_trial_is_hollow() -> None:
    drawing = drawing_of(usual, 14)
    figure = epochs(drawing)
    assert figure is not None
    hollow = [
        int(str(line.get_label())) for line in figure.axes[0].lines if line.get_markerfacecolor() == "none"
    ]
    assert hollow == list(drawing.pruned)


def many(trial: Trial) -> float:
    rate = trial.suggest_float("train.lr", 1e-4, 1e-1, log=True)
    decay = trial.suggest_float("train.weight_decay", 2e-3, 3e-2, log=True)
    strength = trial.suggest_float("train.augmentation.strength", 0, 1)
    flip = trial.suggest_float("train.augmentation.flip", 0, 0.5)
    return rate + decay + 0.1 * strength + 0.01 * flip + 0.1 * trial.suggest_categorical("on", [True, False])


def shown_ticks(axes: Axes) -> list[Bbox]:
    """Where the numbers and names of the x axis of drawn axes stand."""
    low, high = sorted(axes.get_xlim())
    ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
    labels = [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
    return [label.get_window_extent() for label in labels if label.get_visible() and label.get_text()]


def apart(axes: Axes) -> bool:
    """True where no label of the x axis touches another, and there are two or more."""
    boxes = sorted(shown_ticks(axes), key=lambda box: box.x0)
    return len(boxes) > 1 and all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_slices_have_ticks_apart_visible_dots_and_whole_trials() -> None:
    with mpl.rc_context():
        figure = slices(drawing_of(many, 12))
        assert figure is not None
        figure.canvas.draw()
        *panels, bar = figure.axes
        assert len(panels) == 5
        assert all(apart(each) for each in panels)
        for each in panels:
            colours = np.asarray(each.collections[0].get_facecolor())
            assert len(colours) == 12
            assert colours[:, 0].max() < 0.85, "none is white"
        assert all(float(label.get_text()).is_integer() for label in bar.get_yticklabels())


def test_parallel_lines_are_visible_and_their_names_whole() -> None:
    with mpl.rc_context():
        figure = parallel(drawing_of(many, 12))
        assert figure is not None
        figure.canvas.draw()
        first = figure.axes[0]
        assert apart(first)
        names = [label.get_text().replace("\n", "") for label in first.get_xticklabels()]
        strength, flip = "train.augmentation.strength", "train.augmentation.flip"
        assert names == ["val_loss", "on", flip, strength, "train.lr", "train.weight_decay"]
        assert np.asarray(first.collections[0].get_edgecolor())[:, 0].max() < 0.85, "none is white"


def test_contours_have_ticks_apart_and_need_enough_trials() -> None:
    assert contour(drawing_of(many, 7)) is None
    with mpl.rc_context():
        figure = contour(drawing_of(many, 12))
        assert figure is not None
        figure.canvas.draw()
        assert all(apart(each) for each in figure.axes[6:9])
