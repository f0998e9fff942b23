"""The whole default road: wall time, the part that is not fitting, and a no-op against an empty DVC project."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
EMPTY = """stages:
  one: {cmd: "echo 1 > one.txt", outs: [one.txt]}
  two: {cmd: "cp one.txt two.txt", deps: [one.txt], outs: [two.txt]}
"""


def command(folder: Path, *words: str) -> tuple[float, str]:
    """Run in a folder; seconds and what was printed."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    began = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


def copy_project(folder: Path) -> None:
    """A clean copy of the project under git."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    command(folder, "git", "init", "-q")


def fitting_seconds(folder: Path) -> tuple[float, int]:
    """Seconds inside trials and inside the training's `fit`, and how many trials."""
    with (folder / "data" / "tune" / "trials.csv").open() as file:
        trials = [float(row["seconds"]) for row in csv.DictReader(file)]
    fitted = json.loads((folder / "data" / "train" / "run.json").read_text())["seconds"]
    return sum(trials) + fitted, len(trials)


def no_op(folder: Path) -> tuple[float, float]:
    """Medians of a no-op `dvc repro` here and in an empty two-stage project, taken in turn."""
    with TemporaryDirectory() as scratch:
        empty = Path(scratch)
        command(empty, "git", "init", "-q")
        command(empty, "dvc", "init", "-q")
        (empty / "dvc.yaml").write_text(EMPTY)
        command(empty, "dvc", "repro")
        pairs = [(command(folder, "dvc", "repro")[0], command(empty, "dvc", "repro")[0]) for _ in range(5)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def run() -> dict[str, float]:
    """Run the default road in a clean copy, once, then the no-ops."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_project(folder)
        wall, printed = command(folder, "dvc", "repro")
        inside, trials = fitting_seconds(folder)
        metrics = json.loads((folder / "data" / "evaluate" / "metrics.json").read_text())
        ours, empty = no_op(folder)
    stages = {
        f"stage {name}, s": float(s) for name, s in re.findall(r"^(\w+): done in ([\d.]+) s", printed, re.M)
    }
    return {
        "whole road, s": wall,
        "inside fitting and searching, s": inside,
        "the rest, s": wall - inside,
        "trials": trials,
        "test accuracy": metrics["accuracy"]["value"],
        "no-op dvc repro, s": ours,
        "no-op dvc repro of an empty project, s": empty,
        "no-op, ours over empty": ours / empty,
        **stages,
    }
