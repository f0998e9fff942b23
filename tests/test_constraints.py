"""Constraints and several objectives: what is measured, what is kept, which trial is the best."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FrozenTrial

from models.served import Served
from pipeline.core.params import UserError
from pipeline.fitting.fit import Job
from pipeline.fitting.space import Domain, Plain, Space
from pipeline.tuning.measures import latency_ms, parameters_of
from pipeline.tuning.pareto import columns, front, ranked, written
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Constraints, Tune
from pipeline.tuning.study import REPORTS, best
from pipeline.tuning.task import Outcome, Report, Task
from pipeline.tuning.trial import run_trial
from tests.searches import SPACE, Stopped, session, work_of
from tests.small import CPU, blobs, table_job

LINE: Space = {"x": Domain(low=-4.0, high=6.0)}


def priced(values: Plain) -> dict[str, float]:
    """The best is at the right end, and what it costs grows to the right."""
    return {
        "val_loss": (1 - values["x"]) ** 2,
        "parameters": 1000 * values["x"],
        "latency_ms": 1 + values["x"],
    }


def study_of(limits: Plain, **changes: Any) -> optuna.Study:
    settings = {"constraints": limits, "trials": 40, "space": {"x": SPACE["x"]}, **changes}
    return session(None, settings, work_of(priced))


# Constraints


@pytest.mark.parametrize("word", ["random", "tpe", "nsga-ii", "cma-es"])
def test_the_best_keeps_the_constraint_and_is_the_best_that_does(word: str) -> None:
    study = study_of({"parameters": 500}, sampler=word)
    trials = study.get_trials()
    keeping = [t for t in trials if t.user_attrs["parameters"] <= 500]
    assert 0 < len(keeping) < len(trials)
    assert best(study).number == min(keeping, key=lambda t: t.values[0]).number
    assert min(trials, key=lambda t: t.values[0]) not in keeping, "the lowest loss of all breaks it"
    assert [t.number for t in ranked(study)] == [t.number for t in sorted(keeping, key=lambda t: t.values[0])]


def test_a_sampler_that_knows_constraints_stays_within_them() -> None:
    def late(limits: Plain) -> float:
        trials = study_of(limits, sampler="tpe").get_trials()[15:]
        return float(np.mean([trial.params["x"] for trial in trials]))

    assert late({}) > 0.8, "the best is at 1"
    assert 0.15 < late({"latency_ms": 1.3}) < 0.45, "and the best that is allowed at 0.3"


def test_constraints_are_told_to_optuna_as_shares_of_the_limit() -> None:
    trial = study_of({"parameters": 500, "latency_ms": 2, "joules": 4}, trials=1).get_trials()[0]
    x = trial.params["x"]
    shares = {"latency_ms": (1 + x) / 2 - 1, "parameters": 2 * x - 1}
    assert trial.constraints == pytest.approx({**shares, "joules": -1}), "made-up work tells of no energy"


def test_joules_are_those_of_all_sessions(tmp_path: Path) -> None:
    """The worker of the second session knows nothing of what the first one spent."""

    def work(task: Task, ask: Any, first: bool) -> Outcome:
        for epoch in range(2) if first else range(1, 3):  # as from a checkpoint that lacks the last epoch
            ask(Report(0, epoch, {"val_loss": 1.0}, 0.0, 5.0))
        if first:
            raise Stopped
        return Outcome("complete", {"val_loss": 1.0})

    settings = Tune.model_validate(
        {"space": SPACE, "trials": 1, "minutes": 9, "pruner": "none", "constraints": {"joules": 12}}
    )
    study, plan = optuna.create_study(), Plan(settings, (), 7, tmp_path, CPU)
    with pytest.raises(Stopped):
        Coordinator(study, plan, None, lambda task, ask: work(task, ask, True)).run()
    Coordinator(study, plan, None, lambda task, ask: work(task, ask, False)).run()
    trial = study.get_trials()[0]
    assert trial.user_attrs["joules"] == 15.0
    assert trial.constraints == {"joules": 0.25}


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"latency_ms": 0.5}, r"no trial keeps tune.constraints.latency_ms: the nearest, trial \d+, has 1\.\d+ and the "
         r"limit is 0.5; raise the limit, or let tune.space reach smaller models \(study 'made up'\)"),
        ({"parameters": 300, "latency_ms": 0.9}, r"no trial keeps tune.constraints.latency_ms: the nearest"),
    ],
)  # fmt: skip
def test_where_none_keeps_a_constraint_it_is_named(limits: Plain, said: str) -> None:
    with pytest.raises(UserError, match=said):
        best(study_of(limits))


def test_where_none_keeps_all_at_once_that_is_said() -> None:
    """Small to the left, fast to the right."""

    def torn(values: Plain) -> dict[str, float]:
        return {"val_loss": 0.0, "parameters": 1000 * values["x"], "latency_ms": 10 * (1 - values["x"])}

    limits = {"constraints": {"parameters": 300, "latency_ms": 3}, "trials": 30, "space": {"x": SPACE["x"]}}
    with pytest.raises(
        UserError, match=re.escape("keeps all of tune.constraints (latency_ms, parameters) at once")
    ):
        best(session(None, limits, work_of(torn)))


def test_without_constraints_the_lowest_is_the_best() -> None:
    study = study_of({})
    assert best(study).values == study.best_trial.values
    assert not study.best_trial.constraints


# What is measured of a real network


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    model = {"width": 8, "depth": 1, "normalisation": "none"}
    return table_job(tmp_path_factory.mktemp("job"), blobs(64, 1), blobs(32, 2), {"max_epochs": 1}, model)


WEIGHTS = (8 * 8 + 8) + (8 * 2 + 2)  # a hidden layer over four numbers, each with a flag of what is missing


def test_a_network_of_too_many_weights_is_not_fitted(job: Job, tmp_path: Path) -> None:
    told: list[Report] = []
    assert parameters_of(job) == WEIGHTS
    refused = run_trial(Task(0, (job,), tmp_path / "0", most=WEIGHTS - 1), told.append)
    assert (refused.state, refused.measures, told) == ("pruned", {"parameters": WEIGHTS}, [])
    assert (
        refused.reason
        == f"not fitted: {WEIGHTS} parameters, and tune.constraints.parameters is {WEIGHTS - 1}"
    )
    fitted = run_trial(Task(1, (job,), tmp_path / "1", most=WEIGHTS), told.append)
    assert (fitted.state, len(told)) == ("complete", 1)
    assert fitted.measures == {"val_loss": told[0].metrics["val_loss"], "parameters": WEIGHTS}, (
        "time is not asked for"
    )


def test_trials_are_measured_and_those_not_fitted_are_told_to_the_sampler(job: Job, tmp_path: Path) -> None:
    """Width 64 is too large, so it is refused each time without an epoch; the front is of the others."""
    space = {"model.width": Domain(choices=(4, 8, 64))}
    settings = Tune.model_validate(
        {"sampler": "grid", "pruner": "none", "max_epochs": 1, "trials": 3, "space": space,
         "objectives": ("val_loss", "latency_ms", "parameters"), "constraints": {"parameters": 100}}
    )  # fmt: skip
    study = optuna.create_study(directions=["minimize"] * 3)
    Coordinator(study, Plan(settings, (job,), 7, tmp_path, CPU), None).run()
    trials = {trial.params["model.width"]: trial for trial in study.get_trials()}
    assert {width: trial.state.name for width, trial in trials.items()} == {
        4: "COMPLETE",
        8: "COMPLETE",
        64: "PRUNED",
    }
    assert trials[64].constraints == pytest.approx({"parameters": ((8 * 64 + 64) + (64 * 2 + 2)) / 100 - 1})
    assert "not fitted" in trials[64].user_attrs["reason"]
    for trial in (trials[4], trials[8]):
        assert trial.values == [trial.user_attrs[name] for name in settings.objectives]
        assert 0 < trial.user_attrs["latency_ms"] < 1000
    assert {trial.number for trial in front(study)} <= {trials[4].number, trials[8].number}


def test_latency_is_that_of_one_sample_on_one_thread(job: Job) -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(Served):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((*x.shape, torch.get_num_threads(), int(torch.is_inference_mode_enabled())))
            return super().forward(x)

    torch.set_num_threads(2)
    try:
        assert latency_ms(Watched(job.model, job.spec, job.transform).eval(), job) > 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {(1, 4, 1, 1)}
    assert len(seen) > 20, "once is no measurement"


# Several objectives


def dominated(one: FrozenTrial, others: list[FrozenTrial]) -> bool:
    """By the definition."""
    return any(
        all(a <= b for a, b in zip(other.values, one.values, strict=True)) and other.values != one.values
        for other in others
    )


def schaffer(values: Plain) -> dict[str, float]:
    """Schaffer's problem (1985): the front are the points from 0 to 2."""
    return {
        "val_loss": values["x"] ** 2,
        "latency_ms": (values["x"] - 2) ** 2,
        "parameters": 100 * abs(values["x"]),
    }


def several(word: str, trials: int, **changes: Any) -> optuna.Study:
    objectives = {"objectives": ("latency_ms", "val_loss"), "sampler": word, "trials": trials, "space": LINE}
    return session(None, {**objectives, **changes}, work_of(schaffer))


def test_nsga_ii_finds_the_front_of_a_known_problem() -> None:
    trials = several("nsga-ii", 200).get_trials()
    early, late = (
        np.mean([0 <= trial.params["x"] <= 2 for trial in part]) for part in (trials[:20], trials[-60:])
    )
    assert early < 0.35, "a fifth of the line is on the front"
    assert late > 0.5
    on = sorted(trial.params["x"] for trial in trials if 0 <= trial.params["x"] <= 2)
    assert max(np.diff([0, *on, 2])) < 0.25, "all along it"


@pytest.mark.parametrize("word", ["nsga-ii", "tpe", "random"])
def test_the_front_is_what_nothing_betters_and_the_lowest_loss_of_it_is_taken(word: str) -> None:
    study = several(word, 50)
    trials = study.get_trials()
    expected = {trial.number for trial in trials if not dominated(trial, trials)}
    found = front(study)
    assert {trial.number for trial in found} == expected
    assert len(found) > 2
    assert best(study).number == found[0].number
    assert found[0].user_attrs["val_loss"] == min(trial.values[1] for trial in found)
    assert [trial.number for trial in ranked(study)[: len(found)]] == [trial.number for trial in found]
    assert len(ranked(study)) == 50
    rows = written(study, ("latency_ms", "val_loss"))
    assert rows[0] == {
        "trial": found[0].number,
        "latency_ms": found[0].values[0],
        "val_loss": found[0].values[1],
    }
    shown = columns(study)
    assert list(shown) == ["front"]
    assert set(shown["front"]) == expected


def test_tables_show_what_is_constrained_and_which_trials_keep_it() -> None:
    plain = study_of({})
    assert (written(plain, ("val_loss",)), columns(plain)) == ([], {})
    study = study_of({"parameters": 500})
    shown, trials = columns(study), study.get_trials()
    assert list(shown) == ["feasible"]
    assert shown["feasible"] == {t.number: "yes" if t.params["x"] <= 0.5 else "no" for t in trials}


def test_the_front_is_of_trials_that_keep_the_constraints() -> None:
    study = several("nsga-ii", 60, constraints=Constraints(parameters=100))
    keeping = [trial for trial in study.get_trials() if abs(trial.params["x"]) <= 1]
    assert {t.number for t in front(study)} == {t.number for t in keeping if not dominated(t, keeping)}
    assert {t.number for t in ranked(study)} == {t.number for t in keeping}


def test_several_objectives_end_no_trial() -> None:
    work = work_of(schaffer, epochs=3)
    study = session(
        None,
        {"objectives": ("val_loss", "latency_ms"), "pruner": "median", "trials": 20, "space": LINE},
        work,
    )
    assert {trial.state.name for trial in study.get_trials()} == {"COMPLETE"}
    assert {trial.user_attrs[REPORTS] for trial in study.get_trials()} == {3}
