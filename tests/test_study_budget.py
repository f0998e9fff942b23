"""Budgets of trials, minutes and joules hold over sessions; failures are counted, told, and end no study."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from pipeline.core.params import UserError
from pipeline.tuning.budget import Budget
from pipeline.tuning.progress import Progress
from pipeline.tuning.study import best, ended, seconds_spent
from tests import madeup
from tests.madeup import EPOCHS
from tests.studies import killed_at, session, settings

# Budgets


def test_the_budget_of_trials_holds_over_sessions(tmp_path: Path) -> None:
    seen: list[int] = []

    def run(trials: int) -> list[FrozenTrial]:
        return ended(
            session(tmp_path, settings(trials=trials), after=lambda trial, _: seen.append(trial.number))
        )

    assert [len(run(trials)) for trials in (0, 2, 2, 1, 5)] == [0, 2, 2, 2, 5]
    assert seen == [0, 1, 2, 3, 4]


def test_the_budget_of_minutes_is_that_of_the_clock_and_holds_over_sessions(tmp_path: Path) -> None:
    def run(seconds: float) -> tuple[int, float]:
        study = session(tmp_path, settings(trials=1000, minutes=seconds / 60, max_epochs=1), madeup.lingering)
        return len(ended(study)), seconds_spent(study)

    done, spent = run(0.25)
    assert 1 <= done <= 3
    assert spent >= 0.25, "the clock, not what trials say"
    again, more = run(0.25)
    assert again == done, "what was spent stays spent"
    assert more >= spent
    assert run(more + 0.05)[0] == done + 1


def test_time_inside_a_killed_session_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tuning.budget.PULSE", 0.01)
    began = time.monotonic()
    killed_at("a result came", 2, tmp_path, work=madeup.slow, tune=settings(pruner="none"))
    took = time.monotonic() - began
    spent = seconds_spent(session(tmp_path, settings(trials=0)))
    assert 2 * EPOCHS * 0.05 <= spent <= took + 60, "two trials and most of a third"


def test_the_budget_of_joules_holds_over_sessions_and_kills(tmp_path: Path) -> None:
    """An epoch says that it takes 2 joules; nothing is pruned."""
    tune = settings(trials=50, joules=2.0 * EPOCHS * 3 - 1, pruner="none")
    killed_at("an epoch was told", 1, tmp_path, tune=tune)
    study = session(tmp_path, tune)
    assert [trial.user_attrs["joules"] for trial in ended(study)] == [2.0 * EPOCHS] * 3
    assert len(ended(session(tmp_path, tune))) == 3
    more = tune.model_copy(update={"joules": tune.joules + 2})
    assert len(ended(session(tmp_path, more))) == 4


# Failures


def test_a_failing_trial_is_recorded_with_its_reason_and_the_study_goes_on(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    study = session(
        tmp_path, settings(trials=5), madeup.failing,
        after=lambda t, _: told.append((t.state.name, t.user_attrs.get("reason", ""))),
    )  # fmt: skip
    assert [state for state, _ in told[1::2]] == ["FAIL", "FAIL"]
    assert [reason for _, reason in told] == [
        "",
        "RuntimeError: failure 1",
        "",
        "RuntimeError: failure 3",
        "",
    ]
    again = session(tmp_path, settings(trials=5), madeup.work)
    assert len(ended(again)) == 5, "a failed trial is spent; it is not tried again"
    assert best(again).value == min(
        t.value for t in study.get_trials(states=(TrialState.COMPLETE,)) if t.value
    )


def test_a_bug_in_a_trial_is_not_taken_for_a_bad_trial(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a bug"):
        session(tmp_path, work=madeup.broken)


def test_a_study_of_failures_alone_tells_the_last_reason(tmp_path: Path) -> None:
    study = session(tmp_path, settings(trials=3), madeup.hopeless)
    assert [t.state for t in ended(study)] == [TrialState.FAIL] * 3
    with pytest.raises(
        UserError, match=r"no trial of the study 'digits' finished; .* RuntimeError: failure 2; widen"
    ):
        best(study)


def test_without_a_budget_nothing_runs_and_best_says_what_to_do(tmp_path: Path) -> None:
    study = session(tmp_path, settings(trials=0), given=())
    assert study.get_trials() == []
    with pytest.raises(
        UserError, match=r"no trial of the study 'digits' finished; widen tune.space, give more"
    ):
        best(study)


# What is seen


def shown(folder: Path, terminal: bool) -> tuple[Progress, io.StringIO]:
    """The display of a study that has had three trials, with one that runs."""
    tune = settings(trials=12)
    study = session(folder, settings(trials=3, pruner="none"))
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160, color_system=None)
    progress = Progress(
        Budget(study, tune, 12, 0.0), {TrialState.COMPLETE: 2, TrialState.FAIL: 1}, 0.25, console=console
    )
    progress.began(3, {"model.width": 32, "train.lr": 0.0123456}, EPOCHS, 2)
    progress.epoch(3, 4, 0.5)
    return progress, out


def test_a_terminal_shows_a_bar_and_what_runs(tmp_path: Path) -> None:
    progress, out = shown(tmp_path, terminal=True)
    with progress:
        pass
    told = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "3 of 12 trials, best 0.2500, 1 running, 0 pruned, 1 failed" in told
    assert "trial 3  epoch 4 of 9  0.5000  width 32, lr 0.0123" in told
    assert "left at most" in told


def test_elsewhere_lines_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress, out = shown(tmp_path, terminal=False)
    now = time.monotonic()
    clock: Any = iter(range(100_000))
    monkeypatch.setattr("pipeline.tuning.progress.time.monotonic", lambda: now + next(clock))
    trial = session(tmp_path, settings(trials=3)).get_trials()[0]
    with progress:
        for _ in range(10_000):  # a trial a second
            progress.over(trial)
    lines = out.getvalue().splitlines()
    assert 20 <= len(lines) <= 200
    assert "trials, best 0." in lines[-1]
