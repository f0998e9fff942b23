"""A study that is killed, wherever, ends as the undisturbed one does; budgets, pruning and failures are counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.core.params import UserError
from pipeline.fitting.space import Domain
from pipeline.study import Hyperband, best, counted, open_study, search, seconds_spent

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


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/folder/studies.db"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return story(session(f"sqlite:///{tmp_path_factory.mktemp('study')}/studies.db"))


def killed(storage: str, number: int, place: str) -> None:
    """Run a session in a process of its own that kills itself, as SIGKILL does, at a place in a trial."""
    died = subprocess.run(
        [sys.executable, "-m", "tests.test_study", storage, json.dumps([number, place])],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL, died.stderr


# Determinism and resumption


def test_the_same_seed_asks_the_same_and_another_seed_does_not(undisturbed: list[Any], storage: str) -> None:
    assert story(session(storage)) == undisturbed
    other = story(session(f"{storage}2", seed=SEED + 1))
    assert other[0] == undisturbed[0], "the given values come first"
    assert not [trial for trial in other[1:] if trial in undisturbed[1:]]


def test_the_search_learns_from_its_trials(undisturbed: list[Any]) -> None:
    """Without this, sameness could be that of a random search, which needs no history."""
    late = [trial[1]["c"] for trial in undisturbed[6:]]
    assert late.count("a") >= 4
    assert len({json.dumps(trial[1]) for trial in undisturbed}) == TRIALS


def test_a_study_stopped_between_trials_goes_on_as_if_it_had_not_been(
    undisturbed: list[Any], storage: str
) -> None:
    def stop_after(number: int) -> Callable[[FrozenTrial], None]:
        def after(trial: FrozenTrial) -> None:
            if trial.number == number:
                raise KeyboardInterrupt

        return after

    open_study(storage, "digits", EPOCHS, REDUCTION).enqueue_trial(GIVEN)
    for number in (0, 1, 6, TRIALS - 1):
        study = open_study(storage, "digits", EPOCHS, REDUCTION)
        with pytest.raises(KeyboardInterrupt):
            search(study, objective, TRIALS, 60.0, SEED, stop_after(number))
        assert story(study) == undisturbed[: number + 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "place"),
    [(0, "after x"), (0, "in epoch 4"), (1, "after it"), (7, "after n"), (9, "in epoch 0")],
)  # fmt: skip
def test_a_study_killed_inside_a_trial_runs_it_again_and_loses_nothing(
    number: int, place: str, undisturbed: list[Any], storage: str
) -> None:
    killed(storage, number, place)
    study = session(storage)
    assert story(study) == undisturbed
    interrupted = [t.number for t in study.get_trials() if t.user_attrs.get("reason") == "interrupted"]
    assert interrupted == ([] if place == "after it" else [number])
    assert len(study.get_trials()) == TRIALS + len(interrupted)
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


@pytest.mark.slow
def test_a_study_killed_again_and_again_ends_the_same(undisturbed: list[Any], storage: str) -> None:
    for number, place in ((0, "in epoch 8"), (1, "in epoch 8"), (2, "in epoch 8"), (7, "after n")):
        killed(storage, number, place)
    assert story(session(storage)) == undisturbed


def test_studies_of_other_names_do_not_mix(storage: str) -> None:
    session(storage, 3)
    assert counted(open_study(storage, "other", EPOCHS, REDUCTION)) == []


# Pruning


def test_hyperband_prunes_the_bad_and_finishes_the_good(undisturbed: list[Any]) -> None:
    states = [state for state, *_ in undisturbed]
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert 3 <= states.count("PRUNED") <= TRIALS - 3
    for state, values, last, curve in undisturbed:
        assert len(curve) == EPOCHS if state == "COMPLETE" else len(curve) < EPOCHS
        assert last == curve[-1] == value_at(**values, epoch=len(curve) - 1)
    final = {state: [value_at(**trial[1], epoch=EPOCHS - 1) for trial in undisturbed if trial[0] == state]
             for state in set(states)}  # fmt: skip
    assert min(final["COMPLETE"]) < min(final["PRUNED"])


def test_an_interrupted_trial_is_no_rival_of_its_repetition(storage: str) -> None:
    """Else each kill leaves one more copy of the same curve, and Hyperband promotes the best of fewer."""

    def pruned(interrupted: list[int]) -> bool:
        study = open_study(storage, f"rivals {interrupted}", EPOCHS, REDUCTION)
        study.pruner = Hyperband(interrupted, 2, 2)  # one rung, of which half go on, in each of two brackets
        for number in range(8):
            trial = study.ask()
            trial.report(-1.0 if number in interrupted else number + 1.0, 1)
            trial.should_prune()
            study.tell(trial, state=TrialState.FAIL)
        last = study.ask()
        last.report(0.0, 1)
        return last.should_prune()

    assert pruned([]) is False, "the best of nine goes on"
    assert pruned([0, 1, 2, 3, 4, 5, 6, 7]) is False, "and so does one whose rivals were never there"


def test_the_best_is_the_lowest_of_the_finished(undisturbed: list[Any], storage: str) -> None:
    found = best(session(storage))
    assert found.value == min(trial[2] for trial in undisturbed if trial[0] == "COMPLETE")


# Budgets


def test_the_budget_of_trials_holds_over_sessions(storage: str) -> None:
    seen: list[int] = []

    def run(trials: int) -> list[FrozenTrial]:
        study = open_study(storage, "budget", EPOCHS, REDUCTION)
        search(study, objective, trials, 60.0, SEED, lambda trial: seen.append(trial.number))
        return counted(study)

    assert [len(run(trials)) for trials in (0, 2, 2, 1, 5)] == [0, 2, 2, 2, 5]
    assert seen == [0, 1, 2, 3, 4]


def test_the_budget_of_minutes_holds_over_sessions(storage: str) -> None:
    def slow(trial: Trial) -> float:
        time.sleep(0.1)
        return trial.suggest_float("x", 0, 1)

    def run(seconds: float) -> optuna.Study:
        study = open_study(storage, "budget", EPOCHS, REDUCTION)
        search(study, slow, 1000, seconds / 60, SEED, lambda trial: None)
        return study

    first = run(0.25)
    done, spent = len(counted(first)), seconds_spent(first)
    assert 1 <= done <= 3
    assert spent >= 0.25
    assert len(counted(run(0.25))) == done, "what was spent stays spent"
    assert len(counted(run(spent + 0.05))) == done + 1


def test_time_inside_a_killed_trial_is_not_counted(storage: str) -> None:
    killed(storage, 2, "in epoch 3")
    time.sleep(1.0)  # an interrupted trial ends, for the storage, when the study is opened again
    study = open_study(storage, "digits", EPOCHS, REDUCTION)
    assert len(counted(study)) == 2
    assert seconds_spent(study) == sum(
        t.duration.total_seconds() for t in study.get_trials()[:2] if t.duration
    )


# Failures


def failing(trial: Trial) -> float:
    """Every second trial fails, each in its own way."""
    value = trial.suggest_float("x", 0, 1)
    failures = {1: RuntimeError("out of\nmemory"), 3: ValueError("no"), 5: MemoryError("x" * 900)}
    if trial.number in failures:
        raise failures[trial.number]
    return {7: float("nan"), 9: float("inf")}.get(trial.number, value)


def test_a_failing_trial_is_recorded_with_its_reason_and_the_study_goes_on(storage: str) -> None:
    study = open_study(storage, "failing", EPOCHS, REDUCTION)
    told: list[tuple[str, str]] = []
    search(
        study, failing, 11, 60.0, SEED, lambda t: told.append((t.state.name, t.user_attrs.get("reason", "")))
    )
    assert [state for state, _ in told] == ["COMPLETE", "FAIL"] * 5 + ["COMPLETE"]
    assert [reason for _, reason in told[1::2]] == [
        "RuntimeError: out of\nmemory",
        "ValueError: no",
        f"MemoryError: {'x' * 487}",
        "ValueError: the trial ended with the value nan",
        "ValueError: the trial ended with the value inf",
    ]
    again = open_study(storage, "failing", EPOCHS, REDUCTION)
    assert len(counted(again)) == 11, "a failed trial is spent; it is not tried again"
    assert best(again).value == min(
        t.value for t in again.get_trials(states=(TrialState.COMPLETE,)) if t.value
    )


def test_a_bug_in_the_objective_is_not_taken_for_a_bad_trial(storage: str) -> None:
    def broken(trial: Trial) -> float:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        search(open_study(storage, "s", EPOCHS, REDUCTION), broken, 3, 60.0, SEED, lambda trial: None)


def test_a_study_of_failures_alone_tells_the_last_reason(storage: str) -> None:
    def hopeless(trial: Trial) -> float:
        raise RuntimeError(f"failure {trial.number}")

    study = open_study(storage, "hopeless", EPOCHS, REDUCTION)
    search(study, hopeless, 3, 60.0, SEED, lambda trial: None)
    assert [t.state for t in counted(study)] == [TrialState.FAIL] * 3
    with pytest.raises(
        UserError, match=r"no trial of the study 'hopeless' finished; .* RuntimeError: failure 2; widen"
    ):
        best(study)


@pytest.mark.parametrize(("trials", "minutes"), [(0, 60.0), (3, 0.0)])
def test_without_a_budget_nothing_runs_and_best_says_what_to_do(
    trials: int, minutes: float, storage: str
) -> None:
    study = open_study(storage, "empty", EPOCHS, REDUCTION)
    search(study, objective, trials, minutes, SEED, lambda trial: None)
    assert study.get_trials() == []
    with pytest.raises(
        UserError, match=r"no trial of the study 'empty' finished; widen tune.space, give more"
    ):
        best(study)


if __name__ == "__main__":
    number, place = json.loads(sys.argv[2])
    session(sys.argv[1], died=(number, place))
