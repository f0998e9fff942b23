"""What starting, asking and handing out cost on this machine, in seconds: what `docs/scale.md` reckons with.

Figures of an idle machine; a busy one's are several times these.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.asking import Asking, asks
from pipeline.engine.local import Local
from pipeline.engine.ray_cluster import joined
from pipeline.engine.ray_data import on_cluster
from pipeline.engine.ray_tasks import RayTasks
from pipeline.engine.tasks import Executor
from pipeline.fitting.compute import Compute

QUESTIONS, TASKS, CHUNKS = 500, 100, 200


def seconds(work: Callable[[], Any]) -> float:
    """How long a call lasts."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def imported(*modules: str) -> float:
    """Seconds of a new process that imports modules; the median of three."""
    words = [sys.executable, "-c", f"import {', '.join(modules)}"]
    return median(seconds(lambda: subprocess.run(words, check=True)) for _ in range(3))


def ran(pool: Executor[Asking, int], *works: Asking) -> None:
    """Run tasks, one after the other where they are more than fit."""
    waiting = list(works)
    while waiting or pool.running:
        while waiting and pool.running < pool.size:
            pool.submit(waiting.pop())
        done = pool.wait()
        assert done.error is None, done
        assert not done.lost, done


def costs(pool: Executor[Asking, int]) -> dict[str, float]:
    """How long it takes until the first task has run, and of a question and a task after that."""
    return {
        "first task": seconds(lambda: ran(pool, Asking(0))),
        "question": seconds(lambda: ran(pool, Asking(QUESTIONS))) / QUESTIONS,
        "task": seconds(lambda: ran(pool, *[Asking(0)] * TASKS)) / TASKS,
    }


@contextmanager
def somewhere() -> Iterator[None]:
    """A folder to work in, as the engines leave marks in the project's."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def run() -> dict[str, float]:
    """Seconds of each; 'fitting' is all that a process imports to fit a model."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    figures = {"a process that imports torch and Lightning": imported("pipeline.fitting.fit")}
    compute = Compute(engine="ray", accelerator="cpu", threads=1)
    with somewhere():
        pool: Executor[Asking, int] = Local(asks, answered, 2)
        figures |= {f"local, {name}": value for name, value in costs(pool).items()}
        pool.close()
        began = time.perf_counter()
        with joined():
            figures["ray, started here"] = time.perf_counter() - began
            pool = RayTasks(asks, answered, compute)
            figures |= {f"ray, {name}": value for name, value in costs(pool).items()}
            pool.close()
            figures["ray data, first chunk"] = seconds(lambda: list(on_cluster(abs, [1])))
            many = list(range(CHUNKS))
            figures["ray data, a chunk"] = seconds(lambda: list(on_cluster(abs, many))) / CHUNKS
    return figures


def answered(task: Asking, question: int) -> int:
    """What the coordinator says."""
    del task
    return question
