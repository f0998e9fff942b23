"""A made-up objective for the tests of studies, and a session that kills itself: `python -m tests.studies`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial
from pipeline.study import counted, open_study, search

from pipeline.fitting.space import Domain

ROOT = Path(__file__).parents[1]
EPOCHS, REDUCTION, TRIALS, SEED = 9, 3, 12, 7
SPACE = {
    "x": Domain(low=0.0, high=1.0),
    "n": Domain(low=1, high=64, log=True),
    "c": Domain(choices=("a", "b", "c")),
}
GIVEN = {"x": 0.5, "n": 8, "c": "b"}


def value_at(x: float, n: int, c: str, epoch: int) -> float:
    """A made-up learning curve: lower for good values, and lower with every epoch."""
    return (x - 0.3) ** 2 + n / 64 + 0.1 * "abc".index(c) + 1 / (epoch + 1)


def objective(trial: Trial, died: tuple[int, str] | None = None) -> float:
    """Report the curve, pruned where Hyperband says so; `died` is the trial and the place to be killed at."""
    values: dict[str, Any] = {}
    for name, domain in SPACE.items():
        values[name] = domain.suggest(trial, name)
        kill_at(died, trial, f"after {name}")
    for epoch in range(EPOCHS):
        trial.report(value_at(**values, epoch=epoch), epoch + 1)
        kill_at(died, trial, f"in epoch {epoch}")
        if epoch + 1 < EPOCHS and trial.should_prune():
            raise optuna.TrialPruned
    return value_at(**values, epoch=EPOCHS - 1)


def kill_at(died: tuple[int, str] | None, trial: Trial | FrozenTrial, place: str) -> None:
    if died == (trial.number, place):
        os.kill(os.getpid(), signal.SIGKILL)


def session(
    storage: str, trials: int = TRIALS, seed: int = SEED, died: tuple[int, str] | None = None
) -> optuna.Study:
    """What a run of `tune` does with a study."""
    study = open_study(storage, "digits", EPOCHS, REDUCTION)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(GIVEN)
    search(
        study, lambda trial: objective(trial, died), trials, 60.0, seed,
        after=lambda trial: kill_at(died, trial, "after it"),
    )  # fmt: skip
    return study


def story(study: optuna.Study) -> list[Any]:
    """All that is to be the same: state, values and curve of each trial, in order."""
    return [[t.state.name, t.params, t.value, list(t.intermediate_values.values())] for t in counted(study)]


def killed(storage: str, number: int, place: str) -> None:
    """Run a session in a process of its own that kills itself, as SIGKILL does, at a place in a trial."""
    died = subprocess.run(
        [sys.executable, "-m", "tests.studies", storage, json.dumps([number, place])],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL, died.stderr


if __name__ == "__main__":
    number, place = json.loads(sys.argv[2])
    session(sys.argv[1], died=(number, place))
