"""`kill -9` of workers and of the whole stage, at random moments of a real study: what is lost, and what is left?

`python -m benchmarks kills` kills thirty times (`--kills` another number), then lets the study end, and compares it
with one that nobody disturbed: every value, every loss of every epoch, every run in MLflow. Ctrl-C ends everything.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import psutil

from benchmarks.studies import Project
from pipeline import mlflow_store, tracking
from pipeline.tuning.study import SECONDS, ended

SAMPLES, EPOCHS, TRIALS, MORE = (
    1500,
    6,
    16,
    8,
)  # trials to begin with, and those added when a study ends too early
LONGEST, STAGES = 10.0, 0.4  # seconds between two kills at most; share of kills that take the whole stage
GONE = 30.0  # seconds that processes have to be gone
SEED = 5


def run(kills: int = 30) -> dict[str, Any]:
    """Kill, compare, and say what was found; what is not as it should be fails."""
    draw = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="fairlead-kills-") as scratch:
        project = Project(Path(scratch) / "killed", SAMPLES, settings(TRIALS), {"workers": 2})
        began = time.monotonic()
        trials, killed = disturbed(project, kills, draw)
        took = time.monotonic() - began
        alone = Project(Path(scratch) / "alone", SAMPLES, settings(trials), {"workers": 2})
        alone.run()
        study = project.study()
        told = {
            "kills": sum(killed.values()),
            "of the stage": killed["stage"],
            "of a worker in a trial": killed["worker"],
            "of a worker that was starting": killed["starting"],
            "trials": trials,
            **compared(study, alone.study()),
            **runs(project, study),
            "minutes of the budget over those of the clock": study.user_attrs[SECONDS] / took,
            "processes left": len(ours(project.folder)),
            "folders left": sum(1 for each in (project.folder / ".fairlead/trials").rglob("*") if each.is_dir()) - 1,
            "seconds": took,
        }  # fmt: skip
    wrong = {name: value for name, value in told.items() if name in NOUGHT and value}
    assert not wrong, wrong
    assert 0.02 < told["minutes of the budget over those of the clock"] <= 1.0, told
    return told


NOUGHT = (
    "trials lost or not finished", "trials that differ", "epochs that differ", "MLflow runs too many or too few",
    "MLflow curves that differ", "processes left", "folders left",
)  # fmt: skip


def settings(trials: int) -> dict[str, Any]:
    """The section `tune`."""
    return {"trials": trials, "max_epochs": EPOCHS}


def disturbed(project: Project, kills: int, draw: random.Random) -> tuple[int, Counter[str]]:
    """Run the stage until it was killed so often and ended; how many trials that took, and the kills by kind."""
    killed: Counter[str] = Counter()
    trials, process = TRIALS, project.start()
    try:
        while True:
            moment = time.monotonic() + draw.uniform(0.1, LONGEST)
            while time.monotonic() < moment and process.poll() is None:
                time.sleep(0.01)
            if process.poll() is not None:
                assert process.returncode == 0, (project.folder / "log").read_text()[-3000:]
                if sum(killed.values()) >= kills:
                    return trials, killed
                trials += MORE
                project.set(settings(trials), {"workers": 2})
                process = project.start()
            elif sum(killed.values()) < kills:
                kind = kill(process, draw)
                killed[kind] += bool(kind)
                if kind == "stage":
                    process.wait()
                    assert gone(project.folder), [each.cmdline() for each in ours(project.folder)]
                    process = project.start()
                print(f"\r  {sum(killed.values())} kills", end="", flush=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print()


def kill(process: subprocess.Popen[bytes], draw: random.Random) -> str:
    """Kill the stage or one of its workers, once it has some; says which."""
    if draw.random() < STAGES:
        process.kill()
        return "stage"
    if not workers(process):
        while not workers(process) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(draw.uniform(0.0, LONGEST))
    with contextlib.suppress(psutil.Error, IndexError):
        chosen = draw.choice(workers(process))
        kind = "worker" if loaded(chosen) else "starting"
        chosen.kill()
        return kind
    return ""


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The workers of the stage, oldest first."""
    with contextlib.suppress(psutil.Error):
        found = [each for each in psutil.Process(process.pid).children() if is_worker(each)]
        return sorted(found, key=lambda each: each.pid)
    return []


def is_worker(process: psutil.Process) -> bool:
    """True for a worker, not for what multiprocessing itself starts."""
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def loaded(process: psutil.Process) -> bool:
    """True once a worker has its data: then it holds some memory."""
    return bool(process.memory_info().rss > 300 * 2**20)


def ours(folder: Path) -> list[psutil.Process]:
    """Processes that run in a folder, zombies among them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd().startswith(str(folder)):
                found.append(process)
    return found


def gone(folder: Path) -> bool:
    """True once no process runs there."""
    until = time.monotonic() + GONE
    while ours(folder) and time.monotonic() < until:
        time.sleep(0.05)
    return not ours(folder)


def compared(study: optuna.Study, alone: optuna.Study) -> dict[str, int]:
    """How the disturbed study differs from the other."""
    mine, other = ended(study), ended(alone)
    pairs = list(zip(mine, other, strict=False))
    return {
        "trials lost or not finished": abs(len(other) - len(mine))
        + sum(trial.state.name != "COMPLETE" for trial in study.get_trials()),
        "trials that differ": sum((a.params, a.values) != (b.params, b.values) for a, b in pairs),
        "epochs that differ": sum(a.intermediate_values != b.intermediate_values for a, b in pairs),
    }


def runs(project: Project, study: optuna.Study) -> dict[str, int]:
    """How MLflow's runs differ from one a trial, each with the loss of every epoch once."""
    with contextlib.chdir(project.folder):
        mlflow_store.client.cache_clear()
        (parent,) = tracking.search("tags.stage = 'tune'")
        children = tracking.Run(parent.info.run_id).children()
        curves = 0
        for child in children:
            points = mlflow_store.client().get_metric_history(child.run.id, "val_loss")
            losses = study.get_trials()[int(child.tags["trial"])].intermediate_values
            curves += [point.value for point in points] != list(losses.values())
        mlflow_store.client.cache_clear()
    counts = Counter(int(child.tags["trial"]) for child in children if child.ended)
    numbers = {trial.number for trial in ended(study)}
    wrong = sum(counts[number] != 1 for number in numbers) + len(children) - sum(counts.values())
    return {"MLflow runs too many or too few": wrong, "MLflow curves that differ": curves}
