"""Each sampler through the real coordinator, on made-up functions: what it asks, again after a stop, and how well."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import optuna
import pytest
from optuna.storages import RDBStorage
from scipy.stats import qmc
from sqlalchemy import text

from pipeline.fitting.compute import Compute
from pipeline.fitting.space import Domain, Plain, Space
from pipeline.tuning.samplers import SAMPLERS, sampler_of
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Sampler, Tune
from tests.searches import GIVEN, GRID, SPACE, Stopped, best_of, bowl, session, story, work_of

WORDS = get_args(Sampler)
BY_NUMBER = ("grid", "random", "quasi-random")
TRIALS = {"nsga-ii": 44, "cma-es": 26, "gp": 6}  # beyond what is random


@pytest.fixture(scope="module")
def storage() -> RDBStorage:
    """A database without a disk, to which every write goes as to one with."""
    return RDBStorage("sqlite:///:memory:")


def settings_of(word: str) -> Plain:
    return {"sampler": word, "trials": TRIALS.get(word, 18), "space": GRID if word == "grid" else SPACE}


def test_every_word_has_a_sampler() -> None:
    assert set(SAMPLERS) == set(WORDS)


# The same after a stop


@pytest.mark.parametrize("word", WORDS)
def test_a_study_that_is_stopped_asks_what_the_undisturbed_one_asks(word: str, storage: RDBStorage) -> None:
    """Stopped within trials, and once between two keys of one: made-up work is quick, so all in one process."""
    given = (GIVEN,)
    undisturbed = session(None, settings_of(word), work_of(bowl), given, name=word)
    last = undisturbed.get_trials()[-1].number
    asked = Counter[int]()
    stops = sorted({1, 5, last - 1, last})
    for number in stops:

        def stop(task: object, number: int = number) -> bool:
            asked[task.number] += 1  # type: ignore[attr-defined]
            return bool(task.number == number)  # type: ignore[attr-defined]

        with pytest.raises(Stopped):
            session(storage, settings_of(word), work_of(bowl, stop=stop), given, name=word)
        forget_a_key(storage, word, number)
    resumed = session(storage, settings_of(word), work_of(bowl), given, name=word)
    assert story(resumed) == story(undisturbed)
    assert {count for number, count in asked.items() if number not in stops} == {1}, "none is done again"


def forget_a_key(storage: RDBStorage, study: str, number: int) -> None:
    """As if the kill had come before the trial's last key was stored."""
    forgotten = (
        "DELETE FROM trial_params WHERE param_id = (SELECT max(param_id) FROM trial_params JOIN trials "
        "USING (trial_id) JOIN studies USING (study_id) WHERE number = :number AND study_name = :study)"
    )
    with storage.engine.begin() as database:
        done = database.execute(text(forgotten), {"number": number, "study": study})
        assert done.rowcount == 1


@pytest.mark.parametrize("word", WORDS)
def test_another_seed_asks_something_else(word: str) -> None:
    changes = settings_of(word) | ({"trials": 5} if word != "grid" else {})
    one, other = (session(None, changes, work_of(bowl), seed=seed) for seed in (7, 8))
    assert [t.params for t in one.get_trials()] != [t.params for t in other.get_trials()]


# What depends on the number alone


@pytest.mark.parametrize("word", BY_NUMBER)
def test_values_depend_on_the_number_alone(word: str) -> None:
    """So that several workers, whose trials end in any order and with any value, are asked the same."""
    study = session(None, settings_of(word), work_of(bowl), (GIVEN,))
    other = session(None, settings_of(word), work_of(lambda _: {"val_loss": 1.0}), (GIVEN,))
    expected = [trial.params for trial in study.get_trials()]
    assert [trial.params for trial in other.get_trials()] == expected
    assert expected[0] == GIVEN
    assert asked_at_once(word, len(expected), (GIVEN,)) == expected


def asked_at_once(word: str, count: int, given: tuple[Plain, ...] = ()) -> list[Plain]:
    """The values of trials that are all running at one time."""
    settings = Tune.model_validate({"minutes": 60.0, "pruner": "none", **settings_of(word), "trials": count})
    study = optuna.create_study()
    for values in given:
        study.enqueue_trial(values)
    coordinator = Coordinator(study, Plan(settings, (), 7, Path("nowhere"), Compute()), None, work_of(bowl))
    return [dict(coordinator.begin(None).values) for _ in range(count)]


@pytest.mark.parametrize("word", WORDS)
def test_trials_that_run_at_once_are_not_asked_the_same(word: str) -> None:
    values = [tuple(sorted(each.items())) for each in asked_at_once(word, 12)]
    assert len(set(values)) == 12


@pytest.mark.parametrize("word", ["tpe", "gp", "cma-es", "nsga-ii"])
def test_a_model_does_not_propose_what_is_running(word: str) -> None:
    """After a beginning the model alone decides, and without a liar it would give several workers nearly one point."""
    settings = Tune.model_validate({"minutes": 60.0, "pruner": "none", **settings_of(word)})
    study = session(None, settings_of(word), work_of(bowl))
    study.sampler = sampler_of(study, settings, 7)
    asked, count = [], 2 if word == "gp" else 6
    for _ in range(count):
        trial = study.ask()
        asked.append(tuple(domain.suggest(trial, name) for name, domain in SPACE.items()))
    assert len(set(asked)) == count
    assert max(abs(a[0] - b[0]) for a, b in itertools.combinations(asked, 2)) > 0.001


def test_quasi_random_values_are_those_of_scipy_s_sequence() -> None:
    space = {f"x{at}": Domain(low=0.0, high=1.0) for at in range(3)}
    study = session(
        None, {"sampler": "quasi-random", "trials": 16, "space": space}, work_of(lambda _: {"val_loss": 0.0})
    )
    found = np.array([[trial.params[name] for name in space] for trial in study.get_trials()])
    expected = qmc.Sobol(3, scramble=True, rng=np.random.default_rng(7)).random(16)
    np.testing.assert_allclose(found, expected)
    assert all(len(set(np.floor(column * 16))) == 16 for column in found.T), "one in each sixteenth"


def test_random_values_are_evenly_spread() -> None:
    study = session(None, {"sampler": "random", "trials": 600}, work_of(bowl))
    trials = study.get_trials()
    assert abs(np.mean([t.params["x"] for t in trials]) - 0.5) < 0.05
    assert min(Counter(t.params["c"] for t in trials).values()) > 160
    ones = [t.params["n"] for t in trials]
    assert min(ones) == 1
    assert 60 <= max(ones) <= 64
    assert 0.4 < np.mean(np.array(ones) <= 8) < 0.6, "of a logarithm, half lies below the geometric middle"


# Grids


def test_a_grid_is_visited_whole_and_once_and_ends_the_search(storage: RDBStorage) -> None:
    changes = {"sampler": "grid", "trials": 1000, "space": GRID}
    for trials in (5, 11, 1000, 1000):
        study = session(storage, {**changes, "trials": trials}, work_of(bowl))
    found = [tuple(trial.params[name] for name in GRID) for trial in study.get_trials()]
    assert sorted(found) == sorted(itertools.product((0.0, 0.5, 1.0), (1, 64), "abc"))
    assert found != sorted(found), "in no order, so that a part of it is no corner"


def test_a_grid_does_not_visit_again_what_was_asked_first() -> None:
    on, off = {"x": 0.5, "n": 64, "c": "b"}, {"x": 0.4, "n": 64, "c": "b"}
    for given, expected in ((on, 18), (off, 19)):
        study = session(None, {"sampler": "grid", "trials": 99, "space": GRID}, work_of(bowl), (given,))
        assert len(study.get_trials()) == expected
        assert study.get_trials()[0].params == given


def test_a_grid_goes_where_conditions_lead() -> None:
    space: Space = {
        "c": Domain(choices=("a", "b")),
        "x": Domain(choices=(1, 2), when={"c": ("a",)}),
        "y": Domain(low=0, high=4, step=2, when={"x": (2,)}),
    }
    study = session(None, {"sampler": "grid", "trials": 99, "space": space}, work_of(bowl))
    found = sorted(tuple(trial.params.values()) for trial in study.get_trials())
    assert found == [("a", 1), ("a", 2, 0), ("a", 2, 2), ("a", 2, 4), ("b",)]


# How well


def test_models_find_a_better_point_than_random_search() -> None:
    """On a smooth function, over seeds; every factor is far from what was seen."""

    def smooth(values: Plain) -> dict[str, float]:
        return {"val_loss": sum((values[f"x{at}"] - 0.2 * at - 0.1) ** 2 for at in range(len(values)))}

    def mean(word: str, numbers: int, trials: int, seeds: int) -> float:
        space = {f"x{at}": Domain(low=0.0, high=1.0) for at in range(numbers)}
        changes = {"sampler": word, "trials": trials, "space": space}
        found = [best_of(session(None, changes, work_of(smooth), seed=seed)) for seed in range(seeds)]
        return float(np.mean([trial.values for trial in found]))

    assert mean("gp", 2, 9, 2) < 0.3 * mean("random", 2, 9, 20)
    random = mean("random", 4, 80, 8)
    for word, share in (("tpe", 0.5), ("cma-es", 0.2), ("nsga-ii", 0.9)):
        assert mean(word, 4, 80, 4) < share * random, word
