"""The best trials on fresh seeds: which are trained again, none twice, and luck is not taken for skill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from pipeline.core.params import UserError
from pipeline.fitting.fit import Job
from pipeline.fitting.space import Domain, Plain
from pipeline.pages import environment
from pipeline.tuning import surely
from pipeline.tuning.finals import Final, Finals, Found, Setting, contenders, fresh_seeds, keep, kept
from pipeline.tuning.search import Plan
from pipeline.tuning.settings import Tune
from pipeline.tuning.surely import differences
from pipeline.tuning.verdict import Verdict, judge, untested
from tests.project import ROOT
from tests.small import CPU, blobs, table_job, write

RATE = "train.lr"
SPACE = {RATE: Domain(low=0.001, high=0.5, log=True)}
GIVEN: Plain = {RATE: 0.02}


def job_of(folder: Path, rows: int = 64) -> Job:
    return table_job(folder, blobs(rows, 0), blobs(rows // 2, 1), {"max_epochs": 2, "lr": GIVEN[RATE]})


def plan_of(folder: Path, *jobs: Job, **tune: Any) -> Plan:
    settings = Tune.model_validate({"space": SPACE, "top": 2, "seeds": 2, **tune})
    return Plan(settings, jobs or (job_of(folder),), 7, folder / "finals", CPU)


def study_of(*trials: tuple[float, float | None]) -> optuna.Study:
    """A study of trials with a rate and a value each; pruned where there is none."""
    study = optuna.create_study()
    for rate, value in trials:
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        distributions = {RATE: FloatDistribution(0.001, 0.5, log=True)}
        study.add_trial(
            create_trial(state=state, params={RATE: rate}, distributions=distributions, value=value)
        )
    return study


def trained(plan: Plan, settings: list[Setting]) -> tuple[Found, list[int]]:
    """What the finals find, and the numbers of those that ended."""
    numbers: list[int] = []
    return Finals(plan, settings, lambda number, *_: numbers.append(number)).run(), numbers


# Which


def test_the_given_setting_comes_first_and_each_setting_once(tmp_path: Path) -> None:
    study = study_of((0.3, 0.5), (0.1, 0.2), (0.1, 0.2), (0.05, 0.3), (0.2, None), (0.4, 0.9))
    found = contenders(study, plan_of(tmp_path, top=2), GIVEN)
    assert [(each.trial, each.given) for each in found] == [(None, True), (1, False), (3, False)]
    assert found[1] == Setting(1, {RATE: 0.1}, 0.2)


def test_a_given_setting_among_the_best_takes_one_of_their_places(tmp_path: Path) -> None:
    study = study_of((0.02, 0.25), (0.1, 0.2), (0.05, 0.3))
    found = contenders(study, plan_of(tmp_path, top=2), GIVEN)
    assert found == [Setting(0, GIVEN, 0.25, given=True), Setting(1, {RATE: 0.1}, 0.2)]
    late = contenders(study, plan_of(tmp_path, top=1), GIVEN)
    assert [each.trial for each in late] == [0, 1], (
        "the given setting is known by its trial also where it is no best"
    )


# Training


def test_the_losses_of_samples_are_those_of_the_fresh_training(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    settings = [Setting(None, GIVEN, None, given=True), Setting(3, {RATE: 0.3}, 0.1)]
    found, _ = trained(plan, settings)
    assert sorted(found) == [(0, 8), (0, 9), (1, 8), (1, 9)]
    for final in found.values():
        assert final.samples is not None
        assert final.samples.shape == (32,)
        assert final.samples.mean() == pytest.approx(final.loss, rel=1e-5)
    assert len({final.loss for final in found.values()}) == 4


def test_folds_count_alike_whatever_their_size(tmp_path: Path) -> None:
    jobs = job_of(tmp_path / "a", 64), job_of(tmp_path / "b", 96)
    found, _ = trained(plan_of(tmp_path, *jobs, seeds=1), [Setting(None, GIVEN, None, given=True)])
    alone = [trained(plan_of(tmp_path / str(at), job, seeds=1), [Setting(None, GIVEN, None)])[0][0, 8].loss
             for at, job in enumerate(jobs)]  # fmt: skip
    final = found[0, 8]
    assert final.loss == pytest.approx(np.mean([loss for loss in alone if loss is not None]), rel=1e-6)
    assert final.samples is not None
    assert final.samples.shape == (32 + 48,)
    assert final.samples.mean() == pytest.approx(final.loss, rel=1e-5)


def test_a_regression_has_a_loss_of_each_sample_too(tmp_path: Path) -> None:
    train, val = ((rows, rows[:, :2] + rows[:, 1:3]) for rows, _ in (blobs(64, 0), blobs(32, 1)))
    job = table_job(tmp_path, train, val, {"max_epochs": 1, "lr": 0.02})
    final = trained(plan_of(tmp_path, job, seeds=1), [Setting(None, GIVEN, None)])[0][0, 8]
    assert final.samples is not None
    assert final.samples.mean() == pytest.approx(final.loss, rel=1e-5)


SETTINGS = [Setting(0, GIVEN, 0.3, given=True), Setting(3, {RATE: 0.3}, 0.1)]


def test_a_kill_loses_no_finished_training_and_repeats_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    died = subprocess.run(
        [sys.executable, "-m", "tests.test_finals", str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert died.stderr.count("with fresh seed") == 2
    whole, _ = trained(plan_of(tmp_path / "whole"), SETTINGS)
    capsys.readouterr()
    found, numbers = trained(plan_of(tmp_path / "killed"), SETTINGS)
    assert capsys.readouterr().err.count("with fresh seed") == 2
    assert numbers == [50, 51, 200, 201]
    assert {key: final.loss for key, final in found.items()} == {key: f.loss for key, f in whole.items()}
    for key, final in found.items():
        np.testing.assert_array_equal(final.samples, whole[key].samples)
    more = [Setting(None, {RATE: 0.1}, None), *SETTINGS]  # in another place, and one more seed
    _, numbers = trained(plan_of(tmp_path / "killed", seeds=3), more)
    assert sorted(numbers) == [0, 1, 2, 50, 51, 52, 200, 201, 202]
    assert capsys.readouterr().err.count("with fresh seed") == 3 + 1 + 1


def test_a_damaged_result_is_taken_for_none(tmp_path: Path) -> None:
    path = tmp_path / "50.npz"
    keep(path, Final(0.5, np.ones(9)))
    whole = path.read_bytes()
    assert (found := kept(path)) is not None
    assert found.loss == 0.5
    for damaged in (b"", whole[:100], b"text", whole[:-30]):
        path.write_bytes(damaged)
        assert kept(path) is None


def test_a_training_that_fails_is_told_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _ = blobs(32, 0)
    job = table_job(tmp_path, (rows, rows[:, :1]), (rows, rows[:, :1]), {"max_epochs": 1, "lr": 0.02})
    broken = replace(job, val_folder=write(tmp_path / "nan", job.spec, rows, np.full((32, 1), np.nan, "f4")))
    found, _ = trained(plan_of(tmp_path, broken, seeds=1), [Setting(None, GIVEN, None)])
    assert found[0, 8].loss is None
    assert "val_loss is nan" in found[0, 8].reason
    assert "failed: ValueError" in capsys.readouterr().err
    found, _ = trained(plan_of(tmp_path, job, seeds=1), [Setting(None, GIVEN, None)])
    assert found[0, 8].loss is not None


# What is said


def drawn(plan: Plan, means: dict[int, float], spread: float = 0.001, samples: int = 200) -> Found:
    """Finals of settings by their mean losses; samples differ, and the settings differ alike in all of them."""
    draw = np.random.default_rng(0)
    base = draw.exponential(size=samples)
    base -= base.mean()
    found: Found = {}
    for place, mean in means.items():
        for at, seed in enumerate(fresh_seeds(7, plan.settings.seeds)):
            loss = mean + spread * (at % 3 - 1) * (-1) ** place  # which no pairing of seeds takes away
            found[place, seed] = Final(loss, base + loss)
    return found


THREE = [*SETTINGS, Setting(9, {RATE: 0.1}, 0.2)]


def said(tmp_path: Path, means: dict[int, float], seeds: int = 3, spread: float = 0.001) -> Verdict:
    plan = plan_of(tmp_path, seeds=seeds)
    return judge(plan, THREE[: len(means)], drawn(plan, means, spread))


def test_the_winner_is_the_best_on_fresh_seeds_and_not_the_search_s(tmp_path: Path) -> None:
    found = said(tmp_path, {0: 0.30, 1: 0.25, 2: 0.21})
    assert found.winner.trial == 9
    assert found.gap == pytest.approx(0.2 - 0.21, abs=0.002)
    assert found.word == "better"
    assert found.told.startswith("the tuned setting is better than the given one: val_loss -0.0")
    assert "the search said 0.2000 of trial 9, fresh seeds say 0.21" in found.told
    assert found.difference is not None
    assert found.difference.low < -0.09 < found.difference.high < 0
    assert found.samples == 200
    plain = found.plain()
    assert plain["seeds"] == [8, 9, 10]
    assert [each["trial"] for each in plain["settings"]] == [0, 3, 9]
    assert found.metrics()["difference_high"] == found.difference.high
    assert found.metrics()["fresh_val_loss"] == pytest.approx(0.21, abs=0.002)


def test_what_is_within_the_spread_of_seeds_is_not_surely_better(tmp_path: Path) -> None:
    found = said(tmp_path, {0: 0.30, 1: 0.295, 2: 0.31}, spread=0.02)
    assert found.word == "unsure"
    assert found.told.startswith("the tuned setting is not surely better than the given one: val_loss -")


def test_given_values_that_do_best_stay(tmp_path: Path) -> None:
    found = said(tmp_path, {0: 0.20, 1: 0.25, 2: 0.21})
    assert (found.word, found.winner.trial) == ("given", 0)
    assert "no tuned setting is better than the given one" in found.told
    assert "the best other, trial 9: val_loss +0.0" in found.told


def test_given_values_that_may_break_a_constraint_are_not_chosen(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=3)
    settings = [replace(SETTINGS[0], free=False), *SETTINGS[1:]]
    found = judge(plan, settings, drawn(plan, {0: 0.20, 1: 0.25}))
    assert (found.word, found.winner.trial) == ("worse", 3)
    assert (
        "the given one, which may not be chosen as it is not known to keep tune.constraints: val_loss"
        in found.told
    )
    close = judge(plan, settings, drawn(plan, {0: 0.20, 1: 0.2001}))
    assert close.word == "unsure"
    assert "not surely better than the given one, which may not be chosen" in close.told


def test_one_seed_is_sure_of_nothing_and_no_seed_at_all_is_luck(tmp_path: Path) -> None:
    found = said(tmp_path, {0: 0.30, 1: 0.25}, seeds=1)
    assert (found.word, found.difference) == ("unsure", None)
    assert "with one fresh seed nothing is sure" in found.told
    study = study_of((0.1, 0.2))
    lucky = untested(
        study.best_trial, [Setting(None, GIVEN, None, given=True), Setting(0, {RATE: 0.1}, 0.2)], 12
    )
    assert lucky.told.startswith("trial 0 did best of 12 with one training each")
    assert "luck; tune.top: 3" in lucky.told


def test_a_setting_that_fails_on_a_seed_is_out_and_failures_alone_are_an_error(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=3)
    finals = drawn(plan, {0: 0.30, 1: 0.25, 2: 0.21})
    finals[2, 9] = Final(None, reason="RuntimeError: out of memory")
    found = judge(plan, THREE, finals)
    assert found.winner.trial == 3
    assert found.plain()["settings"][2]["reason"] == "RuntimeError: out of memory"
    finals |= {(place, 8): Final(None, reason="out of memory") for place in range(3)}
    with pytest.raises(UserError, match=r"none of the best settings .* out of memory"):
        judge(plan, THREE, finals)


def test_without_losses_of_samples_the_interval_knows_of_seeds_alone(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=3)
    finals = {key: replace(final, samples=None) for key, final in drawn(plan, {0: 0.30, 1: 0.25}).items()}
    found = judge(plan, SETTINGS, finals)
    assert (found.word, found.samples) == ("better", 0)


@pytest.mark.parametrize("failing", [False, True])
def test_the_report_shows_what_is_kept(failing: bool, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=2)
    finals = drawn(plan, {0: 0.30, 1: 0.25, 2: 0.21})
    if failing:
        finals[2, 9] = Final(None, reason="RuntimeError: out of <memory>")
    kept = yaml.safe_load(yaml.safe_dump(judge(plan, THREE, finals).plain()))
    page = str(environment().get_template("macros.html.j2").module.luck(kept))  # type: ignore[attr-defined]
    assert kept["told"].partition(":")[0] in page
    assert "<td>trial 9</td>" in page
    assert page.count("<td") == (13 if failing else 15)  # a reason takes the place of three
    assert ("RuntimeError: out of &lt;memory&gt;" in page) == failing
    study = study_of((0.1, 0.2))
    lucky = untested(study.best_trial, THREE, 12).plain()
    assert "not tried again" in str(environment().get_template("macros.html.j2").module.luck(lucky))  # type: ignore[attr-defined]


# How surely


def world(
    draw: np.random.Generator, settings: int, seeds: int, samples: int, better: float = 0.0
) -> np.ndarray:
    """Losses (C, S, N) of settings that are all alike, but for the last, in a world of seeds and samples."""
    base = draw.exponential(size=samples)
    own = draw.normal(scale=0.2, size=(settings, 1, samples)) * base
    luck = draw.normal(scale=0.02, size=(settings, seeds, 1))
    found = base + own + luck + draw.normal(scale=0.3, size=(settings, seeds, samples)) * base
    found[-1] -= better
    return found


def claims(better: float, worlds: int, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """How often the best of 12 is called better than the first: by the search, and surely, after three fresh seeds."""
    monkeypatch.setattr(surely, "DRAWS", 500)
    draw, by_search, sure = np.random.default_rng(0), 0, 0
    for _ in range(worlds):
        losses = world(draw, 12, 4, 150, better)
        first = losses[:, 0].mean(1)
        top = [at for at in np.argsort(first)[:3] if at]
        again = losses[[0, *top], 1:]
        winner = again[1:].mean((1, 2)).argmin()
        by_search += int(first[top].min() < first[0])
        sure += int(differences(again.mean(2), again, 1)[winner].high < 0)
    return by_search / worlds, sure / worlds


def test_luck_is_not_taken_for_skill(monkeypatch: pytest.MonkeyPatch) -> None:
    by_search, sure = claims(0.0, 150, monkeypatch)
    assert by_search > 0.8, "the search nearly always finds something that looks better"
    assert sure <= 0.05


def test_skill_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert claims(0.3, 30, monkeypatch)[1] > 0.8


def test_more_seeds_and_more_samples_narrow_the_interval() -> None:
    draw = np.random.default_rng(1)
    widths = []
    for seeds, samples in ((2, 100), (6, 100), (6, 1600)):
        losses = world(draw, 3, seeds, samples)
        found = differences(losses.mean(2), losses, 1)[0]
        widths.append(found.high - found.low)
    assert widths[0] > widths[1] > widths[2]


if __name__ == "__main__":  # trains into a folder, and is killed once two have ended
    ended: list[int] = []

    def after(number: int, *_: Any) -> None:
        ended.append(number)
        if len(ended) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Finals(plan_of(Path(sys.argv[1]) / "killed"), SETTINGS, after).run()
