"""Budgets of trials and minutes hold over sessions; failures are counted, told, and end no study."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState
from pipeline.study import best, counted, open_study, search, seconds_spent

from pipeline.core.params import UserError
from tests.studies import EPOCHS, REDUCTION, SEED, killed, objective


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/folder/studies.db"


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
