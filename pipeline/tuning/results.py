"""What is kept of a study: its table, its pictures, its best values, and a run for each trial."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from pipeline import tracking
from pipeline.fitting.space import Plain, Space
from pipeline.tuning.study import NOTES, ended
from pipeline.tuning.trial import METRIC


def log_trial(parent: tracking.Run, trial: FrozenTrial, curve: list[dict[str, float]]) -> None:
    """Log one trial as a child of the tuning run."""
    known = {name: str(value) for name, value in trial.user_attrs.items() if name not in NOTES}
    tags = {"trial": str(trial.number), "state": trial.state.name.lower(), **known}
    run = tracking.start(f"trial-{trial.number}", tags, parent)
    run.params(trial.params)
    for epoch, metrics in enumerate(curve):
        run.metrics(metrics, epoch)
    run.finish("FAILED" if trial.state == TrialState.FAIL else "FINISHED")


def write_table(study: optuna.Study, path: Path, space: Space) -> None:
    """Write every trial as a row: number, state, value, best value so far, epochs, parameters."""
    best = float("inf")
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial", "state", METRIC, "best", "epochs", "seconds", *space])
        for trial in ended(study):
            value = trial.value if trial.value is not None else ""
            best = min(best, trial.value) if trial.state == TrialState.COMPLETE and trial.value else best
            shown = best if best < float("inf") else ""
            values = [trial.params.get(name, "") for name in space]
            table.writerow(
                [trial.number, trial.state.name.lower(), value, shown, len(trial.intermediate_values),
                 round(trial.user_attrs.get("seconds", 0.0), 2), *values]
            )  # fmt: skip


def draw(study: optuna.Study, folder: Path) -> None:
    """Optuna's own pictures of the study: history and slices."""
    import matplotlib as mpl
    from optuna.visualization import matplotlib as pictures

    mpl.use("agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = pictures.plot_optimization_history(study).get_figure(root=True)
        slices = np.atleast_1d(np.asarray(pictures.plot_slice(study))).flat[0].get_figure(root=True)
    assert history is not None
    history.savefig(folder / "history.png", dpi=80)
    slices.savefig(folder / "slices.png", dpi=60)


def write_best(folder: Path, values: Plain, about: Plain) -> None:
    """Write `best.yaml`, which `train` lays over the given values."""
    note = "# Written by the stage tune; train lays these values over params.yaml, which stays as it is.\n"
    content = yaml.safe_dump({"params": values, **about}, sort_keys=False)
    (folder / "best.yaml").write_text(note + content)
