"""A trial of real trainings that is killed at any line ends with the very losses of an undisturbed one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from pipeline.core.params import UserError
from pipeline.fitting.space import Domain
from pipeline.tuning import trial as trials
from pipeline.tuning.opening import askable, given
from pipeline.tuning.task import METRIC, Outcome, Report, Task
from pipeline.tuning.trial import run_trial
from tests.small import blobs, table_job
from tests.studies import die, dying, killed

EPOCHS, FOLDS = 3, 2


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Two folds of three epochs, with what draws random numbers and keeps state in the loop."""
    folder = tmp_path_factory.mktemp("folds")
    settings = {"max_epochs": EPOCHS, "ema": 0.9, "sampling": "over", "mixup": 0.2}
    jobs = tuple(
        table_job(folder / str(fold), blobs(64, fold, 0.3), blobs(32, 9), settings, {"dropout": 0.3})
        for fold in range(FOLDS)
    )
    return Task(0, jobs, folder / "undisturbed")


def heard(task: Task, log: Path, answer: Callable[[Report], bool] = lambda _: False) -> Outcome:
    """Run a trial; each report is a line of `log`."""

    def ask(report: Report) -> bool:
        with log.open("a") as file:
            kept = {name: report.metrics[name] for name in ("train_loss", METRIC, "val_score", "lr")}
            file.write(json.dumps([report.fold, report.epoch, kept]) + "\n")
        return answer(report)

    return run_trial(task, ask)


def lines(log: Path) -> list[Any]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(task: Task) -> tuple[Outcome, list[Any]]:
    log = task.folder.with_suffix(".log")
    return heard(task, log), lines(log)


def at(fold: int, epoch: int) -> Callable[[Report], bool]:
    def answer(report: Report) -> bool:
        if (report.fold, report.epoch) == (fold, epoch):
            die()
        return False

    return answer


def test_a_trial_killed_anywhere_ends_with_the_same_losses_and_fits_no_epoch_twice_that_is_kept(
    task: Task, undisturbed: tuple[Outcome, list[Any]], tmp_path: Path
) -> None:
    mine, log = replace(task, folder=tmp_path / "trial"), tmp_path / "log"

    def saved_twice(*_: Any) -> bool:
        calls.append(None)
        return len(calls) == 2

    def begun(task: Task, fold: int, _: Any) -> bool:
        return fold == 1

    calls: list[None] = []
    places: list[Callable[[], Any]] = [
        lambda: heard(mine, log, at(0, 0)),  # told, and no checkpoint yet
        lambda: (dying(ModelCheckpoint, "_save_checkpoint", saved_twice, late=True), heard(mine, log)),
        lambda: heard(mine, log, at(0, 2)),
        lambda: (dying(trials, "fit_fold", lambda *_: True, late=True), heard(mine, log)),  # before its note
        lambda: (dying(trials, "fit_fold", begun, late=False), heard(mine, log)),  # after it
        lambda: heard(mine, log, at(1, 1)),
        lambda: (dying(trials, "measured", begun, late=True), heard(mine, log)),  # before its result is sent
    ]
    for place in places:
        killed(place)
    assert heard(mine, log) == undisturbed[0]
    told = [(fold, epoch) for fold, epoch, _ in lines(log)]
    assert told == [(0, 0), (0, 0), (0, 1), (0, 2), (0, 2), (1, 0), (1, 1), (1, 1), (1, 2)]
    assert all(line in undisturbed[1] for line in lines(log)), "bit for bit, also what is told again"
    assert undisturbed[0].state == "complete"
    assert {METRIC, "parameters"} <= undisturbed[0].measures.keys()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:1000],
        lambda whole: whole[: len(whole) // 2],
        lambda _: b"",
        lambda _: b"\x80d" * 999,
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_thrown_away(
    damage: Callable[[bytes], bytes], task: Task, undisturbed: tuple[Outcome, list[Any]], tmp_path: Path
) -> None:
    mine, log = replace(task, folder=tmp_path / "trial"), tmp_path / "log"
    killed(lambda: heard(mine, log, at(0, 1)))
    (checkpoint,) = mine.folder.rglob("last.ckpt")
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    assert heard(mine, log) == undisturbed[0]
    assert [line[:2] for line in lines(log)[:3]] == [[0, 0], [0, 1], [0, 0]]


def test_a_trial_ends_early_where_its_coordinator_says_so(task: Task, tmp_path: Path) -> None:
    log = tmp_path / "log"
    answer = lambda report: report.epoch == 1  # noqa: E731
    assert heard(replace(task, folder=tmp_path / "one"), log, answer) == Outcome("pruned")
    assert [line[:2] for line in lines(log)] == [[0, 0], [0, 1]]
    kept = heard(replace(task, folder=tmp_path / "two", pruned=False), log, answer)
    assert kept.state == "complete", "as the best ones are trained again"


def no_number(metrics: dict[str, float]) -> None:
    metrics[METRIC] = float("nan")


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
        (RuntimeError("can't allocate memory"), "RuntimeError: can't allocate memory"),
        (MemoryError("x" * 900), f"MemoryError: {'x' * 487}"),
    ],
)
def test_what_the_values_are_to_blame_for_is_a_reason(
    raised: Exception, reason: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any) -> None:
        raise raised

    monkeypatch.setattr("models.tasks.Supervised.training_step", step)
    assert heard(replace(task, folder=tmp_path), tmp_path / "log") == Outcome("failed", reason=reason)


def test_a_loss_that_is_no_number_ends_the_trial_at_once(task: Task, tmp_path: Path) -> None:
    wild = tuple(
        replace(job, train=job.train.model_copy(update={"lr": 1e30, "gradient_clip": 0.0}))
        for job in task.jobs
    )
    found = heard(replace(task, folder=tmp_path / "trial", jobs=wild), tmp_path / "log")
    assert found == Outcome("failed", reason=f"ValueError: {METRIC} is nan after epoch 1")


@pytest.mark.parametrize(
    "raised",
    [
        TypeError("a bug"),
        RuntimeError("file write failed: No space left on device"),
        UserError("what is given cannot be trained"),
    ],
)
def test_what_is_no_fault_of_the_values_stops_the_search(
    raised: Exception, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any) -> None:
        raise raised

    monkeypatch.setattr("models.tasks.Supervised.training_step", step)
    with pytest.raises(type(raised), match=str(raised)):
        heard(replace(task, folder=tmp_path), tmp_path / "log")


def test_a_given_choice_that_the_space_does_not_have_is_not_asked(task: Task) -> None:
    """A network of width 16 is given."""
    job = task.jobs[0]
    space = {"model.width": Domain(choices=(4, 8)), "train.lr": Domain(low=0.1, high=1.0)}
    assert given(space, job) == {"model.width": 16, "train.lr": 0.02}
    assert askable(space, job) == {"train.lr": 0.02}
    assert askable({"model.width": Domain(choices=(4, 16))}, job) == {"model.width": 16}
