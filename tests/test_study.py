"""A study that is killed, wherever, ends as the undisturbed one does, and prunes what it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState
from pipeline.study import Hyperband, best, counted, open_study, search

from tests.studies import (
    EPOCHS,
    GIVEN,
    REDUCTION,
    SEED,
    TRIALS,
    killed,
    objective,
    session,
    story,
    value_at,
)  # fmt: skip


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/folder/studies.db"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return story(session(f"sqlite:///{tmp_path_factory.mktemp('study')}/studies.db"))


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
