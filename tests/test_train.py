"""Training: the same inputs give the same weights, also after `kill -9`; what the parameters promise happens."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.road import Road

pytestmark = pytest.mark.slow
EPOCHS = 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """A road up to an undisturbed training, without tuning."""
    road = Road(tmp_path_factory.mktemp("train"))
    road.set({"tune": {"trials": 0}, "train": {"max_epochs": EPOCHS, "patience": 3}, "prepare": {"val": 0.5}})
    road.run("dvc", "repro", "train")
    return road


def weights(road: Road) -> str:
    return road.digest("data/train/weights.safetensors")


def epochs_done(road: Road) -> int:
    logs = list((road.folder / ".fairlead" / "checkpoints").glob("*/log.csv"))
    return max((len(log.read_text().splitlines()) - 1 for log in logs), default=0)


def kill_after(road: Road, epochs: int, seconds: float = 120) -> None:
    """Start the stage and kill it with SIGKILL when so many epochs are logged."""
    process = road.start("python", "-m", "pipeline.train")
    deadline = time.monotonic() + seconds
    while epochs_done(road) < epochs:
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_the_same_inputs_give_the_same_weights(trained: Road) -> None:
    first = weights(trained)
    trained.run("python", "-m", "pipeline.train")
    assert weights(trained) == first


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(trained: Road) -> None:
    undisturbed, log = weights(trained), (trained.folder / "data/train/log.csv").read_text()
    runs = trained.json("data/train/run.json")["run_id"]
    kill_after(trained, 1)
    kill_after(trained, 3)
    assert weights(trained) == undisturbed, "a kill must leave the earlier output"
    (trained.folder / "data/train/weights.safetensors").unlink()
    done = trained.run("python", "-m", "pipeline.train")
    assert "train: done" in done.stdout
    assert weights(trained) == undisturbed
    rows = list(csv.DictReader((trained.folder / "data/train/log.csv").read_text().splitlines()))
    before = list(csv.DictReader(log.splitlines()))
    assert [row["val_loss"] for row in rows] == [row["val_loss"] for row in before]
    assert trained.json("data/train/run.json")["run_id"] != runs
    assert not list((trained.folder / ".fairlead" / "checkpoints").iterdir())


def test_another_seed_gives_other_weights(trained: Road) -> None:
    first = weights(trained)
    before = (trained.folder / "params.yaml").read_text()
    (trained.folder / "params.yaml").write_text(before.replace("seed: 7", "seed: 8"))
    trained.run("python", "-m", "pipeline.train")
    (trained.folder / "params.yaml").write_text(before)
    assert weights(trained) != first


def test_early_stopping_stops_and_the_best_epoch_is_kept(trained: Road) -> None:
    before = (trained.folder / "params.yaml").read_text()
    trained.set({"train": {"lr": 5.0, "patience": 1, "max_epochs": 12, "warmup": 0.5}})
    done: subprocess.CompletedProcess[str] = trained.run("python", "-m", "pipeline.train")
    (trained.folder / "params.yaml").write_text(before)
    with Path(trained.folder / "data/train/log.csv").open() as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    assert len(losses) < 12
    assert f"best val_loss {min(losses):.4f}" in done.stdout
