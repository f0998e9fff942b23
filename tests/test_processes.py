"""Several processes that train one model: what two give is what one gives, and none waits in vain or is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pipeline.core.params import UserError
from pipeline.fitting.doctor import Doctor
from pipeline.fitting.fit import Job
from pipeline.fitting.processes import fit_together
from tests.together import (
    AGAIN,
    JOBS,
    WORLD,
    everything,
    fitted,
    held,
    in_two,
    made,
    rows_job,
    with_processes,
)

pytestmark = pytest.mark.slow
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes gave, started once for all tests here."""
    folder = tmp_path_factory.mktemp("two")
    for job in JOBS.values():
        job(folder)
    in_two(everything, folder)
    return folder


@pytest.fixture(autouse=True)
def inside(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two)


def shares(two: Path, name: str, epoch: int) -> list[list[np.ndarray]]:
    found = []
    for rank in range(WORLD):
        with np.load(two / f"{name}-{epoch}-{rank}.npz") as kept:
            found.append([kept[key] for key in kept.files])
    return found


@pytest.mark.parametrize("name", ["none", "over", "under", "val"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_the_shares_of_two_processes_are_the_batches_of_one(two: Path, name: str, epoch: int) -> None:
    first, second = shares(two, name, epoch)
    one = made(two, name)
    one.set_epoch(epoch)
    batches = [inputs[:, 0].numpy() for inputs, _ in one]
    if name == "val":
        rows = np.concatenate(batches)
        assert sorted(np.concatenate([*first, *second])) == sorted(rows), "none twice, none left out"
        return
    assert len(first) == len(second) == len(batches), "a process would wait for ever"
    for whole, even, odd in zip(batches, first, second, strict=True):
        np.testing.assert_array_equal(even, whole[::2])
        np.testing.assert_array_equal(odd, whole[1::2])


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_give_the_weights_of_one(two: Path, name: str) -> None:
    one = fitted(JOBS[name](two), two / "one" / name)
    first, second = (torch.load(two / f"{name}-{rank}.pt", weights_only=False) for rank in range(WORLD))
    assert len(one["curves"]) == len(first["curves"])
    for key, curve in ((key, [row[key] for row in one["curves"]]) for key in one["curves"][0]):
        assert [row[key] for row in first["curves"]] == pytest.approx(curve, rel=1e-3, abs=1e-5), key
    assert first["curves"] == second["curves"], "metrics are those of all"
    assert first["looks"] == pytest.approx(one["looks"], rel=1e-3), "the doctor sees the gradient of all"
    assert one["weights"].keys() == first["weights"].keys()
    for key, weight in one["weights"].items():
        torch.testing.assert_close(
            first["weights"][key], weight, **TOLERANCE, msg=lambda told, key=key: f"{key}: {told}"
        )
        torch.testing.assert_close(first["weights"][key], second["weights"][key], rtol=0, atol=0)


def test_early_stopping_stopped_early(two: Path) -> None:
    assert 1 < len(torch.load(two / "stopped-0.pt", weights_only=False)["curves"]) < 30


@pytest.mark.parametrize("name", [name for name in JOBS if name.endswith("in parts")])
def test_each_process_holds_a_half_between_steps(two: Path, name: str) -> None:
    (plain,) = torch.load(two / f"{name.removesuffix(' in parts')}-0.pt", weights_only=False)["parts"]
    assert plain[0] == plain[1], "of DDP each holds all"
    held = [torch.load(two / f"{name}-{rank}.pt", weights_only=False)["parts"] for rank in range(WORLD)]
    ((mine, every),), ((other, _),) = held
    assert every == plain[1]
    assert mine + other == every
    assert 0.4 < mine / every < 0.6


@pytest.mark.parametrize("name", AGAIN)
def test_a_training_that_was_broken_off_ends_like_the_undisturbed_one(two: Path, name: str) -> None:
    one = fitted(rows_job(two), two / "one" / f"again-{name}")
    again = torch.load(two / f"again-{name}-0.pt", weights_only=False)
    assert [row["lr"] for row in again["curves"]] == [row["lr"] for row in one["curves"]][1:]
    for key, weight in one["weights"].items():
        torch.testing.assert_close(again["weights"][key], weight, **TOLERANCE)


@pytest.mark.parametrize(("count", "told"), [(50, "49 validation samples"), (130, "121 training samples")])
def test_more_processes_than_samples_are_refused(two: Path, count: int, told: str) -> None:
    with pytest.raises(
        UserError, match=f"{count} processes train together.*there are {told} .*each needs one"
    ):
        fit_together(with_processes(rows_job(two, batch_size=200), count), [])


def children() -> list[psutil.Process]:
    """Processes that train for this one."""
    named = sorted((process.name, process.pid) for process in multiprocessing.active_children())
    return [psutil.Process(pid) for name, pid in named if pid and name.startswith("companion-")]


def killed(job: Job, checkpoints: Path, note: Path) -> None:
    """Train together, and be killed after the second epoch."""

    def hook(epoch: int, _: dict[str, float]) -> None:
        if epoch == 1:
            note.write_text(" ".join(str(process.pid) for process in children()))
            os.kill(os.getpid(), signal.SIGKILL)

    fit_together(job, [hook], checkpoints, [Doctor()])


def test_a_kill_leaves_no_process_and_loses_no_epoch(two: Path) -> None:
    """The parent is killed after an epoch, then one of its processes after the next; one process ends the training."""
    job, checkpoints, note = with_processes(rows_job(two, max_epochs=40), 2), two / "killed", two / "pids"
    forked = multiprocessing.get_context("fork").Process(target=killed, args=(job, checkpoints, note))
    forked.start()
    forked.join(120)
    assert forked.exitcode == -signal.SIGKILL
    pids = [int(pid) for pid in note.read_text().split()]
    assert len(pids) == WORLD
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in pids)

    epochs: list[int] = []

    def hook(epoch: int, _: dict[str, float]) -> None:
        epochs.append(epoch)
        if len(epochs) == 2:
            children()[1].kill()

    with pytest.raises(UserError, match=r"process 1 of the 2 .* was killed \(SIGKILL\).*'dvc repro'"):
        fit_together(job, [hook], checkpoints, [Doctor()])
    assert epochs[0] >= 1, "what was done before the kill is not done again"
    assert not children()
    doctor, rest = Doctor(), []
    served = fit_together(
        with_processes(job, 1), [lambda epoch, _: rest.append(epoch)], checkpoints, [doctor]
    )
    assert rest[0] >= epochs[-1]
    undisturbed = fitted(job, two / "one" / "killed")
    assert doctor.facts.val_loss == pytest.approx(
        [row["val_loss"] for row in undisturbed["curves"]], rel=1e-3
    )
    for key, weight in undisturbed["weights"].items():
        torch.testing.assert_close(held(served)[key], weight, **TOLERANCE)
