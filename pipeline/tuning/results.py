"""What is kept of a study: its tables, its best values, and a run for each trial and each final."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from pipeline import tracking
from pipeline.core.tables import write_csv
from pipeline.fitting import families
from pipeline.fitting.space import Plain, Space
from pipeline.tuning.finals import Final, Setting
from pipeline.tuning.pareto import columns, loss
from pipeline.tuning.study import NOTES, REPORTS, ended
from pipeline.tuning.trial import METRIC, SPREAD
from pipeline.tuning.verdict import Verdict

Curve = list[dict[str, float]]  # metrics, an epoch each
MEASURES = (SPREAD, "parameters", "latency_ms", "joules")  # of trials, where they were taken


def log_trial(parent: tracking.Run, trial: FrozenTrial, curve: Curve) -> None:
    """Log one trial as a child of the tuning run."""
    known = {name: str(value) for name, value in trial.user_attrs.items() if name not in NOTES}
    tags = {"trial": str(trial.number), "state": trial.state.name.lower(), **known}
    run = tracking.start(f"trial-{trial.number}", tags, parent)
    run.params(trial.params)
    for epoch, metrics in enumerate(curve):
        run.metrics(metrics, epoch)
    if SPREAD in trial.user_attrs:  # of folds, whose epochs follow one another; in the end their mean
        run.metrics({name: trial.user_attrs[name] for name in (METRIC, SPREAD)}, len(curve))
    run.finish("FAILED" if trial.state == TrialState.FAIL else "FINISHED")


def log_final(
    parent: tracking.Run, number: int, setting: Setting, seed: int, final: Final, curve: Curve
) -> None:
    """Log one training on a fresh seed as a child of the tuning run."""
    named = "given" if setting.given else str(setting.trial)
    tags = {"final": str(number), "setting": setting.name, "seed": str(seed)}
    run = tracking.start(
        f"final-{named}-seed-{seed}", tags | ({"reason": final.reason} if final.reason else {}), parent
    )
    run.params(setting.values)
    for epoch, metrics in enumerate(curve):
        run.metrics(metrics, epoch)
    run.finish("FAILED" if final.loss is None else "FINISHED")


def log_verdict(run: tracking.Run, study: optuna.Study, verdict: Verdict) -> None:
    """Put what was chosen, and how surely, on the tuning run."""
    for name, entry in families.compared(ended(study)).items():
        run.tags({f"family.{name}": f"best {METRIC} {entry['best']} of {entry['trials']} trials"})
    run.tags({f"best.{name}": str(value) for name, value in verdict.winner.values.items()})
    if fronts := columns(study).get("front"):
        run.tags({"front": ", ".join(f"trial {number}" for number in fronts)})
    run.tags({"verdict": verdict.word, "verdict.told": verdict.told})
    found = {} if verdict.winner.search is None else {METRIC: verdict.winner.search}
    run.metrics({**found, "trials": len(ended(study)), **verdict.metrics()})


def write_table(study: optuna.Study, path: Path, space: Space) -> None:
    """Write every trial as a row: number, state, loss, best loss so far, epochs, what was measured, parameters.

    Of cross-validation the folds that were fitted stand in place of epochs; of constraints and several objectives
    there is which trials keep them and which are on the front.
    """
    trials, best, rows, kept = ended(study), float("inf"), list[list[Any]](), columns(study)
    measured = [name for name in MEASURES if any(name in trial.user_attrs for trial in trials)]
    for trial in trials:
        value = loss(trial) if trial.state == TrialState.COMPLETE else float("inf")
        best = min(best, value)
        shown = [number if number < float("inf") else "" for number in (value, best)]
        seconds = round(trial.user_attrs.get("seconds", 0.0), 2)
        found = [trial.user_attrs.get(name, "") for name in measured]
        found += [column.get(trial.number, "") for column in kept.values()]
        values = [trial.params.get(name, "") for name in space]
        rows.append(
            [trial.number, trial.state.name.lower(), *shown,
             trial.user_attrs.get(REPORTS, len(trial.intermediate_values)), seconds, *found, *values]
        )  # fmt: skip
    counted = "folds" if SPREAD in measured else "epochs"  # that were fitted
    write_csv(path, ["trial", "state", METRIC, "best", counted, "seconds", *measured, *kept, *space], rows)


def write_finals(verdict: Verdict | None, path: Path) -> None:
    """Write every training on a fresh seed as a row; none where nothing was trained again."""
    rows: list[list[Any]] = [
        [each.setting.name, seed, each.setting.search if each.setting.search is not None else "", loss]
        for each in (verdict.standings if verdict else [])
        for seed, loss in zip(verdict.seeds if verdict else (), each.losses, strict=False)
    ]
    write_csv(path, ["setting", "seed", "search", "fresh"], rows)


def write_best(folder: Path, values: Plain, about: Plain) -> None:
    """Write `best.yaml`, which `train` lays over the given values."""
    note = "# Written by the stage tune; train lays these values over params.yaml, which stays as it is.\n"
    content = yaml.safe_dump({"params": values, **about}, sort_keys=False, width=120)
    (folder / "best.yaml").write_text(note + content)
