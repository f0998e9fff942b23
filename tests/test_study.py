"""A study that is killed, wherever, ends as the undisturbed one does, and prunes what it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from pipeline.tuning.samplers import STARTUP
from pipeline.tuning.study import best, ended, open_study
from tests import madeup
from tests.madeup import EPOCHS, value_at
from tests.studies import GIVEN, NAME, SEED, TRIALS, killed_at, session, settings, story

OTHER = {**GIVEN, "c": "a"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    return session(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def undisturbed(study: optuna.Study) -> list[Any]:
    return story(study)


# Determinism and resumption


def test_the_same_seed_asks_the_same_and_another_seed_does_not(
    undisturbed: list[Any], tmp_path: Path
) -> None:
    assert story(session(tmp_path / "one")) == undisturbed
    other = story(session(tmp_path / "two", settings(trials=4), seed=SEED + 1))
    assert other[0] == undisturbed[0], "the given values come first"
    assert not [trial for trial in other[1:] if trial in undisturbed[1:]]


def test_the_search_learns_from_its_trials(undisturbed: list[Any], tmp_path: Path) -> None:
    """Without this, sameness could be that of a random search, which needs no history.

    The same seed on the curve turned round: the first values are the same, and then they are others.
    """
    turned = story(session(tmp_path, work=madeup.turned))
    asked, others = [trial[1] for trial in undisturbed], [trial[1] for trial in turned]
    assert asked[:STARTUP] == others[:STARTUP]
    differ = [one != other for one, other in zip(asked[STARTUP:], others[STARTUP:], strict=True)]
    assert sum(differ) >= len(differ) / 2, "some come from the prior all the same"
    assert len({json.dumps(values) for values in asked}) == TRIALS


def test_a_study_stopped_between_trials_goes_on_as_if_it_had_not_been(
    undisturbed: list[Any], tmp_path: Path
) -> None:
    def stop_after(number: int) -> Callable[[FrozenTrial, Any], None]:
        def after(trial: FrozenTrial, _: Any) -> None:
            if trial.number == number:
                raise KeyboardInterrupt

        return after

    for number in (0, 1, 6, TRIALS - 1):
        with pytest.raises(KeyboardInterrupt):
            session(tmp_path, after=stop_after(number))
        study = open_study(f"sqlite:///{tmp_path}/new/studies.db", NAME, settings())
        assert story(study) == undisturbed[: number + 1]


KILLS = (
    ("the study was made", 0),
    ("values were queued", 0),
    ("a trial was asked", 0),
    ("an epoch was answered", 0),
    ("an epoch was told", 0),
    ("some values were suggested", 1),
    ("a trial was asked", 2),
    ("a result came", 2),
    ("an epoch is kept", 3),
    ("a trial was told", 4),
    ("a trial was over", 5),
    ("some values were suggested", 7),
    ("a trial was told", 11),
)  # fmt: skip; the epochs are those of trials that no pruner ends, whatever the machine's arithmetic


def test_a_study_killed_anywhere_loses_nothing_and_repeats_nothing(
    undisturbed: list[Any], tmp_path: Path
) -> None:
    for place, number in KILLS:
        killed_at(place, number, tmp_path)
        study = open_study(f"sqlite:///{tmp_path}/new/studies.db", NAME, settings())
        done = number + (place in ("a trial was told", "a trial was over"))
        assert story(study) == undisturbed[:done], place
    study = session(tmp_path)
    assert story(study) == undisturbed
    assert len(study.get_trials()) == TRIALS, "what was interrupted has its own number still"
    left = [path for path in (tmp_path / NAME).iterdir() if path.is_dir()]
    assert not left, "no checkpoint is left, nor one of a trial that ended while the stage was killed"


def test_given_values_that_a_kill_left_out_are_asked_all_the_same(tmp_path: Path) -> None:
    killed_at("values were queued", 0, tmp_path, given=(GIVEN, OTHER))
    study = session(tmp_path, settings(trials=3), given=(GIVEN, OTHER))
    assert [trial.params for trial in study.get_trials()[:2]] == [GIVEN, OTHER]


def test_studies_of_other_names_do_not_mix(tmp_path: Path) -> None:
    session(tmp_path, settings(trials=3))
    assert ended(session(tmp_path, settings(trials=0), name="other", given=())) == []


# Pruning


def test_hyperband_prunes_the_bad_and_finishes_the_good(undisturbed: list[Any]) -> None:
    states = [state for state, *_ in undisturbed]
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert 3 <= states.count("PRUNED") <= TRIALS - 2
    for state, values, last, curve, seconds in undisturbed:
        assert len(curve) == EPOCHS if state == "COMPLETE" else len(curve) < EPOCHS
        assert last == curve[-1] == value_at(**values, epoch=len(curve) - 1)
        assert seconds == 0.5 * len(curve)
    final = {state: [value_at(**trial[1], epoch=EPOCHS - 1) for trial in undisturbed if trial[0] == state]
             for state in set(states)}  # fmt: skip
    assert min(final["COMPLETE"]) < min(final["PRUNED"])


def test_the_best_is_the_lowest_of_the_finished(study: optuna.Study, undisturbed: list[Any]) -> None:
    found = best(study)
    assert found.state == TrialState.COMPLETE
    assert found.value == min(trial[2] for trial in undisturbed if trial[0] == "COMPLETE")
