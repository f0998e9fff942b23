"""What a domain may be, the values it gives, and which keys of a space a trial is asked for."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from pydantic import ValidationError

from models.params import Model
from pipeline.core.params import PARAMS, UserError
from pipeline.fitting.conditions import always, combinations, drawn, order
from pipeline.fitting.families import chosen, settled
from pipeline.fitting.space import Domain, Plain, Space
from pipeline.tuning.agreement import check
from pipeline.tuning.settings import Tune
from tests.searches import session, work_of

FAMILIES: Space = {  # some keys before the family, as a file may have them
    "model.kernel": Domain(choices=(3, 5, 7)),
    "model.width": Domain(low=8, high=32, step=8),
    "model.family": Domain(choices=("cnn", "lstm", "transformer")),
    "model.heads": Domain(choices=(2, 4)),
    "train.focal": Domain(low=0.0, high=3.0, when={"model.family": ("cnn", "lstm"), "model.width": (8, 16)}),
    "train.ema": Domain(choices=(0.0, 0.9), when={"model.heads": (4,)}),
}


def test_the_values_of_a_domain() -> None:
    assert Domain(low=1, high=9, step=4).grid() == (1, 5, 9)
    assert Domain(low=0.1, high=0.3, step=0.1).grid() == (0.1, 0.2, 0.3)
    assert Domain(low=1, high=2, step=0.5).grid() == (1.0, 1.5, 2.0)
    assert Domain(low=1, high=4, points=9).grid() == (1, 2, 3, 4), "whole numbers, each once"
    assert Domain(low=0.001, high=0.1, log=True, points=3).grid() == pytest.approx((0.001, 0.01, 0.1))
    assert Domain(low=0.0, high=1.0).grid() == ()
    assert Domain(choices=("a", 1, True)).grid() == ("a", 1, True)


@pytest.mark.parametrize(
    "domain",
    [Domain(low=1, high=64, log=True), Domain(low=0.001, high=0.1, log=True), Domain(low=0, high=1),
     Domain(low=2, high=8, step=2), Domain(low=0.0, high=0.3, step=0.1), Domain(low=-1.5, high=2),
     Domain(choices=(3, "x"))],
)  # fmt: skip
def test_optuna_takes_every_value_that_a_domain_gives(domain: Domain) -> None:
    spread = domain.distribution()
    for share in (0.0, 1e-12, 0.3, 0.5, 1 - 1e-12):
        value = domain.at(share)
        assert spread._contains(spread.to_internal_repr(value)), value
        assert type(value) is type(spread.to_external_repr(spread.to_internal_repr(value)))


@pytest.mark.parametrize(
    ("given", "told"),
    [({"low": 0.1, "high": math.inf, "step": 0.1}, r"'high' \(inf\) must be finite"),
     ({"low": -math.inf, "high": 1}, r"'low' \(-inf\) must be finite"),
     ({"low": 0.1, "high": 0.3, "step": math.nan}, r"'step' \(nan\) must be above 0 and finite"),
     ({"low": 0, "high": 1, "step": 1e-9}, r"'step' \(1e-09\) gives more than 100000 values; make it larger"),
     ({"low": 0.001, "high": 0.021, "step": 1e-300}, "gives more than"),
     ({"choices": (16, 32, 16.0)}, "'choices' gives 16.0 twice")],
)  # fmt: skip
def test_a_range_without_end_or_with_endless_steps_and_a_choice_given_twice_are_refused(
    given: Plain, told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        Domain(**given)
    assert Domain(choices=(1, True, "1")).choices == (1, True, "1")


def test_even_shares_give_even_values() -> None:
    shares = np.linspace(0, 1, 6000, endpoint=False)
    dice = Counter(Domain(low=1, high=6).at(share) for share in shares)
    assert [dice[face] for face in range(1, 7)] == pytest.approx([1000] * 6, abs=1)
    counts = Counter(Domain(low=1, high=63, log=True).at(share) for share in shares)
    for value in (1, 7, 40):  # the room that a whole number has on a logarithm's scale
        room = math.log((value + 0.5) / (value - 0.5)) / math.log(63.5 / 0.5)
        assert counts[value] == pytest.approx(6000 * room, abs=1.5)


def test_optuna_s_own_samplers_ask_for_the_same_values() -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(1)).ask()
    for name, domain in FAMILIES.items():
        domain.suggest(trial, name)
        assert trial.distributions[name] == domain.distribution()


# Conditions


def test_a_key_is_asked_only_where_it_is_wanted() -> None:
    """Every combination, against the rules written out by hand."""
    found = list(
        combinations({**FAMILIES, "train.focal": FAMILIES["train.focal"].model_copy(update={"points": 2})})
    )
    assert len(found) == len({tuple(sorted(point.items())) for point in found})
    count = 0
    for family in ("cnn", "lstm", "transformer"):
        for width in (8, 16, 24, 32):
            kernels = 3 if family == "cnn" else 1
            focals = 2 if family != "transformer" and width < 24 else 1
            heads = 3 if family == "transformer" else 1  # 2, or 4 with each of two decays
            here = [p for p in found if (p["model.family"], p["model.width"]) == (family, width)]
            assert len(here) == kernels * focals * heads
            assert all(("model.kernel" in p) == (family == "cnn") for p in here)
            assert all(("train.ema" in p) == (p.get("model.heads") == 4) for p in here)
            count += len(here)
    assert count == len(found)
    assert always(FAMILIES) == ["model.family", "model.width"]
    assert order(FAMILIES)[0] == "model.family"


@pytest.mark.parametrize("word", ["random", "quasi-random", "tpe", "cma-es", "nsga-ii"])
def test_no_sampler_asks_what_is_not_wanted(word: str) -> None:
    given: Plain = {
        "model.family": "lstm",
        "model.width": 16,
        "model.kernel": 5,
        "model.heads": 2,
        "train.focal": 1.0,
    }

    def measure(values: Plain) -> dict[str, float]:
        return {"val_loss": values["model.width"] / 32 + 0.1 * len(values) + values.get("train.focal", 0)}

    study = session(None, {"sampler": word, "trials": 40, "space": FAMILIES}, work_of(measure), (given,))
    trials = study.get_trials()
    assert trials[0].params == {"model.family": "lstm", "model.width": 16, "train.focal": 1.0}
    for trial in trials:
        expected = drawn(FAMILIES, lambda name, _, trial=trial: trial.params.get(name))  # type: ignore[misc]
        assert trial.params == expected
        assert None not in expected.values(), "nothing is wanted and not asked"
    asked = Counter(name for trial in trials for name in trial.params)
    assert asked["model.family"] == 40
    assert 0 < asked["train.focal"] < 40


def test_what_is_not_asked_stays_as_given() -> None:
    model = Model(family="cnn", width=12, kernel=5, heads=2)
    values: Plain = {"model.family": "transformer", "model.width": 8, "model.heads": 4}
    assert settled(model, values, FAMILIES).kernel == 5
    assert chosen(model, values, FAMILIES) == values


def test_a_truth_value_is_no_number() -> None:
    space: Space = {"a": Domain(choices=(True, 2)), "b": Domain(choices=(1,), when={"a": (1,)})}
    assert drawn(space, lambda name, domain: domain.choices[0]) == {"a": True}
    with pytest.raises(ValidationError, match="gives no value of 'a'"):
        Domain(choices=(1,), when={"a": ()})


def test_contradictions_are_told_before_the_stage_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fairlead check` is tested in test_params; a stage that is run without it says the same."""
    monkeypatch.chdir(tmp_path)
    PARAMS.write_text("name: x\ntune:\n  pruner: wilcoxon\n")
    space = {"train.lr": Domain(low=0.1, high=1)}
    with pytest.raises(
        UserError, match=r"^params.yaml, line 3: 'tune.pruner' wilcoxon compares trials after 3 folds"
    ):
        check(Tune(pruner="wilcoxon", space=space), 3)
    check(Tune(pruner="wilcoxon", space=space), 4)
    check(Tune(pruner="wilcoxon", space=space, trials=0), 0)
