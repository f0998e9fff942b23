"""Made-up functions that the real coordinator searches, in no time, and sessions that stop in the midst of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from pipeline.engine.tasks import Ask
from pipeline.fitting.compute import Compute
from pipeline.fitting.space import Domain, Plain, Space
from pipeline.tuning.constraints import keep
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Tune
from pipeline.tuning.trial import Outcome, Report, Task

Measure = Callable[[Plain], dict[str, float]]
SPACE: Space = {
    "x": Domain(low=0.0, high=1.0),
    "n": Domain(low=1, high=64, log=True),
    "c": Domain(choices=("a", "b", "c")),
}
GRID: Space = {
    **SPACE,
    "x": Domain(low=0.0, high=1.0, points=3),
    "n": Domain(low=1, high=64, log=True, points=2),
}
GIVEN: Plain = {"x": 0.5, "n": 8, "c": "b"}


class Stopped(Exception):
    """A session ends here, as if it had been killed."""


def bowl(values: Plain) -> dict[str, float]:
    """A smooth function with one lowest point, at 0.3, 4 and 'a'."""
    far = (values.get("x", 0.3) - 0.3) ** 2 + (values.get("n", 4) - 4) ** 2 / 3600
    return {"val_loss": far + 0.1 * "abc".index(values.get("c", "a"))}


def work_of(measure: Measure, epochs: int = 1, stop: Callable[[Task], bool] = lambda _: False) -> Any:
    """What a worker does with a made-up function: epochs that come down to its value."""

    def work(task: Task, ask: Ask) -> Outcome:
        if stop(task):
            raise Stopped
        measures = measure(task.values)
        for epoch in range(epochs):
            metrics = {"val_loss": measures["val_loss"] + 1 / (epoch + 1)}
            if (
                ask(Report(0, epoch, metrics, 0.0, measures.get("joules", 0.0) / epochs))
                and epoch + 1 < epochs
            ):
                return Outcome("pruned")
        return Outcome("complete", measures)

    return work


def session(
    storage: RDBStorage | None,
    changes: Plain,
    work: Any,
    given: tuple[Plain, ...] = (),
    seed: int = 7,
    name: str = "made up",
) -> optuna.Study:
    """Search a made-up function as the stage does; without `storage` the study ends with the session."""
    settings = Tune.model_validate({"minutes": 60.0, "pruner": "none", "space": SPACE, **changes})
    study = optuna.create_study(
        study_name=name,
        directions=["minimize"] * len(settings.objectives),
        storage=storage,
        load_if_exists=True,
    )
    keep(study, settings)
    if not study.get_trials(deepcopy=False):
        for values in given:
            study.enqueue_trial(values)
    with tempfile.TemporaryDirectory() as folder:
        Coordinator(study, Plan(settings, (), seed, Path(folder), Compute()), None, work).run()
    return study


def story(study: optuna.Study) -> list[Any]:
    """All that is to be the same of two studies: state, values and reports of each trial, in order."""
    return [[t.state.name, t.params, t.values, t.intermediate_values] for t in study.get_trials()]


def best_of(study: optuna.Study) -> FrozenTrial:
    return min(study.get_trials(), key=lambda trial: trial.values[0] if trial.values else float("inf"))
