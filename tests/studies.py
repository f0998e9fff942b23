"""Sessions of a study on a made-up objective, some of which are killed by SIGKILL in a process of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from pipeline.engine.tasks import Work
from pipeline.fitting.compute import Compute
from pipeline.fitting.space import Domain
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Tune
from pipeline.tuning.study import ask_first, ended, open_study
from pipeline.tuning.task import Outcome, Report, Task
from tests import madeup
from tests.madeup import EPOCHS

TRIALS, SEED, NAME = 12, 7, "digits"
SPACE = {
    "x": Domain(low=0.0, high=1.0),
    "n": Domain(low=1, high=64, log=True),
    "c": Domain(choices=("a", "b", "c")),
}
GIVEN = {"x": 0.5, "n": 8, "c": "b"}
After = Callable[[FrozenTrial, list[dict[str, float]]], None]


def settings(**changes: Any) -> Tune:
    """A study of 12 trials by TPE and Hyperband."""
    return Tune(**{"trials": TRIALS, "minutes": 60.0, "max_epochs": EPOCHS, "space": SPACE, **changes})


def session(
    folder: Path,
    tune: Tune | None = None,
    work: Work[Task, Outcome] = madeup.work,
    workers: int = 1,
    after: After | None = None,
    seed: int = SEED,
    name: str = NAME,
    given: tuple[dict[str, Any], ...] = (GIVEN,),
) -> optuna.Study:
    """What a run of `tune` does with a study that is kept in `folder`."""
    tune = tune or settings()
    study = open_study(f"sqlite:///{folder}/new/studies.db", name, tune)
    ask_first(study, list(given))
    plan = Plan(tune, (), seed, folder / name, Compute(workers=workers, accelerator="cpu"))
    Coordinator(study, plan, after, work).run()
    return study


def story(study: optuna.Study) -> list[Any]:
    """All that is to be the same: state, values, curve and what was spent of each trial, in order."""
    return [
        [t.state.name, t.params, t.value, list(t.intermediate_values.values()), t.user_attrs.get("seconds")]
        for t in ended(study)
    ]


def apart(work: Callable[[], object]) -> multiprocessing.Process:
    """Begin something in a process of its own that has all libraries loaded."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process  # type: ignore[return-value]


def killed(work: Callable[[], object]) -> None:
    """Do something that ends by SIGKILL, in a process of its own."""
    process = apart(work)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(owner: Any, name: str, when: Callable[..., bool], late: bool) -> None:
    """From now on `owner.name` kills this process when it is called so, at its end where `late`."""
    real = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        if not late and when(*given):
            die()
        found = real(*given, **named)
        if late and when(*given):
            die()
        return found

    pytest.MonkeyPatch().setattr(owner, name, call)


def killed_at(place: str, number: int, folder: Path, **more: Any) -> None:
    """A session that dies at a place in its coordinator, in a trial."""

    def first(*_: Any) -> bool:
        return True

    def here(_: Any, trial: Any, *__: Any) -> bool:
        return bool(trial.number == number)

    def second_value(_: Any, trial: Any, name: str) -> bool:
        return bool(trial.number == number) and name == "x"

    def epoch(_: Any, task: Task, report: Report) -> bool:
        return task.number == number and report.epoch == 4

    def fifth(trial: Any, _: float, step: int) -> bool:
        return bool(trial.number == number) and step == 5

    places: dict[str, tuple[Any, str, Callable[..., bool], bool]] = {
        "the study was made": (optuna, "create_study", first, True),
        "values were queued": (optuna.Study, "enqueue_trial", first, True),
        "a trial was asked": (optuna.Study, "ask", first, True),
        "some values were suggested": (Domain, "suggest", second_value, True),
        "an epoch was told": (Coordinator, "answer", epoch, False),
        "an epoch is kept": (optuna.trial.Trial, "report", fifth, False),
        "an epoch was answered": (Coordinator, "answer", epoch, True),
        "a result came": (Coordinator, "end", here, False),
        "a trial was told": (optuna.Study, "tell", here, True),
        "a trial was over": (Coordinator, "end", here, True),
    }

    def run() -> None:
        dying(*places[place])
        session(folder, **more)

    killed(run)
