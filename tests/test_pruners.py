"""Pruners decide what their papers and Optuna's own say, the same when asked again, and go by folds where there are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import optuna
import pytest
from optuna.trial import Trial

from pipeline.fitting.fit import Job
from pipeline.fitting.space import Domain
from pipeline.tuning.pruners import PRUNERS, Halving, Point, point, pruner_of, turns
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Pruner, Tune
from pipeline.tuning.task import Outcome, Report, Task
from tests.small import CPU, blobs, table_job

FOLDS = 5


def test_every_word_has_a_pruner() -> None:
    assert set(PRUNERS) == set(get_args(Pruner))


def decisions(pruner: optuna.pruners.BasePruner, curves: np.ndarray) -> list[int]:
    """At which report each trial (N, reports) is ended, one after the other; 0 where it is whole. Asks twice."""
    study, found = optuna.create_study(pruner=pruner), []
    for curve in curves.tolist():
        trial, ended = study.ask(), 0
        for step, value in enumerate(curve, 1):
            trial.report(value, step)
            if asked_twice(trial, pruner):
                ended = step
                break
        found.append(ended)
        study.tell(
            trial,
            state=optuna.trial.TrialState.PRUNED if ended else None,
            values=None if ended else curve[-1],
        )
    return found


def asked_twice(trial: Trial, pruner: optuna.pruners.BasePruner) -> bool:
    """The answer, which a kill may lose before the trial hears it; Optuna's own forget it, so are asked once."""
    answer = trial.should_prune()
    if isinstance(pruner, Halving):
        assert trial.should_prune() == answer
    return answer


@pytest.mark.parametrize(("first", "reduction"), [(1, 3), (2, 2), (1, 4)])
def test_halving_ends_the_trials_that_optuna_s_ends(first: int, reduction: int) -> None:
    curves = np.random.default_rng(first).normal(size=(60, 20)).cumsum(1)
    theirs = optuna.pruners.SuccessiveHalvingPruner(first, reduction)
    expected = decisions(theirs, curves)
    ladder = [first * reduction**at for at in range(5)]
    assert decisions(Halving(ladder, reduction), curves) == expected
    assert 0 in expected
    assert len(set(expected)) >= 4


def test_hyperband_s_brackets_have_the_trials_of_the_paper_but_for_its_random_search() -> None:
    """Table 1 of Li et al. (2018), R = 81 and eta = 3, whose brackets hold 81, 34, 15, 8 and 5 trials."""
    pruner = pruner_of(Tune(pruner="hyperband", max_epochs=81, reduction=3), 1)
    assert isinstance(pruner, Halving)
    brackets = Counter(pruner.bracket(number) for number in range(138))
    assert [brackets[at] for at in range(5)] == [81, 34, 15, 8, 0]
    first = Counter(pruner.bracket(number) for number in range(24))
    assert max(abs(first[at] - 24 * count / 138) for at, count in enumerate((81, 34, 15, 8))) < 1
    assert turns(3, 1) == [0]
    few = pruner_of(Tune(pruner="hyperband", max_epochs=8, reduction=3), 1)
    assert isinstance(few, Halving)
    assert (few.rungs, few.turns) == ((3,), [0])


def test_in_hyperband_a_trial_has_for_rivals_all_that_were_at_its_rung() -> None:
    curves = np.random.default_rng(0).normal(size=(40, 9)).cumsum(1)
    pruner = Halving((1, 3, 9), 3, 2)
    found = decisions(pruner, curves)
    rungs = {0: (1, 3, 9), 1: (3, 9)}
    for number, ended in enumerate(found):
        mine = rungs[pruner.bracket(number)]
        assert ended in (0, *mine)
        for rung in mine:
            if 0 < ended < rung:
                break
            rivals = [curves[k, rung - 1] for k in range(number) if found[k] in (0, *range(rung, 10))]
            good = sorted([*rivals, curves[number, rung - 1]])[: max(1, (len(rivals) + 1) // 3)]
            assert (ended == rung) == (curves[number, rung - 1] > good[-1])
    first = next(number for number in range(40) if pruner.bracket(number) == 1)
    worst = np.where(np.arange(40)[:, None] == first, 100, curves)
    assert decisions(pruner, worst)[first] == 3, "though it is the first of its bracket"


def test_halving_looks_at_shares_of_the_whole() -> None:
    for epochs, rungs in (
        (2, ()),
        (4, (1,)),
        (20, (2, 7)),
        (27, (1, 3, 9)),
        (100, (4, 11, 33)),
        (300, (11, 33, 100)),
    ):
        pruner = pruner_of(Tune(pruner="halving", max_epochs=epochs, reduction=3), 1)
        assert isinstance(pruner, Halving)
        assert (pruner.rungs, pruner.turns) == (rungs, [0])


def test_the_median_ends_what_is_worse_than_half() -> None:
    curves = np.array(
        [[5.0, 4, 3, 2], [5, 4.5, 4, 3], [9, 8, 7, 6], [1, 1, 1, 1], [4, 4.4, 4, 4], [4, 4.2, 3, 2]]
    )
    ended = decisions(pruner_of(Tune(pruner="median", max_epochs=4), 1), curves)
    assert ended == [0, 0, 0, 0, 3, 0], "only from the second report on; the median of 3 is 3.5 there"


def test_without_a_pruner_all_trials_are_whole() -> None:
    curves = np.random.default_rng(0).normal(size=(9, 4))
    assert decisions(pruner_of(Tune(pruner="none"), 1), curves) == [0] * 9


# Folds


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return table_job(tmp_path_factory.mktemp("job"), blobs(32, 1), blobs(16, 2), {"max_epochs": 2})


def folded(job: Job, pruner: str, tmp_path: Path) -> optuna.Study:
    """Three trials over folds that are unlike each other: a good one, a worse one, and one that is bad by one fold."""
    hard = (0.1, 0.9, 0.4, 0.2, 0.5)  # what the folds add
    extra: dict[float, tuple[float, ...]] = {
        0.1: (0, 0, 0, 0, 0), 0.2: (0.02, 0.01, 0.03, 0.01, 0.02), 0.3: (0.5, -0.1, -0.1, -0.1, -0.1),
    }  # fmt: skip

    def work(task: Task, ask: Any) -> Outcome:
        losses = []
        for fold in range(FOLDS):
            loss = hard[fold] + extra[task.values["train.lr"]][fold]
            for epoch in range(2):
                if ask(Report(fold, epoch, {"val_loss": loss + 1 - epoch}, 0.0, 0.0)) and fold + 1 < FOLDS:
                    return Outcome("pruned")
            losses.append(loss)
        return Outcome("complete", {"val_loss": sum(losses) / FOLDS})

    space = {"train.lr": Domain(choices=(0.1, 0.2, 0.3))}
    settings = Tune.model_validate(
        {"sampler": "grid", "pruner": pruner, "max_epochs": 2, "trials": 3, "minutes": 9, "space": space}
    )
    study = optuna.create_study()
    for lr in (0.1, 0.2, 0.3):
        study.enqueue_trial({"train.lr": lr})
    Coordinator(study, Plan(settings, (job,) * FOLDS, 7, tmp_path, CPU), None, work).run()
    return study


def test_wilcoxon_compares_fold_by_fold(job: Job, tmp_path: Path) -> None:
    """The second trial is worse in each fold by less than folds differ, which a mean so far could not tell."""
    good, worse, mixed = folded(job, "wilcoxon", tmp_path).get_trials()
    assert good.intermediate_values == pytest.approx({1: 0.1, 2: 0.9, 3: 0.4, 4: 0.2, 5: 0.5})
    assert (good.state.name, worse.state.name, mixed.state.name) == ("COMPLETE", "PRUNED", "COMPLETE")
    assert worse.intermediate_values == pytest.approx({1: 0.12, 2: 0.91, 3: 0.43}), "after three folds"


def test_other_pruners_are_told_the_mean_so_far(job: Job, tmp_path: Path) -> None:
    good, *_ = folded(job, "halving", tmp_path).get_trials()
    assert good.intermediate_values == pytest.approx({1: 0.1, 2: 0.5, 3: 1.4 / 3, 4: 0.4, 5: 0.42})


def test_a_fold_that_ended_early_by_its_patience_counts_with_its_last_loss() -> None:
    settings = Tune(pruner="halving", max_epochs=3)
    told = {
        at: Report(*at, {"val_loss": loss}, 0.0, 0.0)
        for at, loss in (((0, 0), 9.0), ((0, 1), 1.0), ((1, 0), 8.0), ((1, 1), 5.0), ((1, 2), 2.0))
    }
    assert point(settings, 2, told[0, 1], told) is None
    assert point(settings, 2, told[1, 2], told) == Point(2, 1.5)
