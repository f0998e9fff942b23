"""Pictures of a study: Optuna's own, through matplotlib, the folds and the finals. What says nothing is not drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import optuna
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from pipeline.core.tables import write_csv
from pipeline.tuning.drawing import Drawing
from pipeline.tuning.parameter_pictures import contour, importance, parallel, slices
from pipeline.tuning.trial_pictures import epochs, finals, folds, front, history
from pipeline.tuning.verdict import Verdict

mpl.use("agg")
DPI = 90

DRAWINGS: dict[str, Callable[[Drawing], Figure | None]] = {
    "history": history, "epochs": epochs, "importances": importance, "parallel": parallel, "slices": slices,
    "contour": contour, "front": front, "folds": folds, "finals": finals,
}  # fmt: skip


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
