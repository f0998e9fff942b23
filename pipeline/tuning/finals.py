"""The best trials trained again on fresh seeds, beside the given values, before one is chosen: no winner by luck.

A search that looks at many trials finds one that was lucky with its seed. Fresh seeds, the same ones for all, show
what is left of it.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from pipeline.core.params import UserError
from pipeline.engine.tasks import Ask, executor
from pipeline.fitting.space import Plain
from pipeline.tuning.curves import Curves
from pipeline.tuning.pareto import loss, ranked
from pipeline.tuning.search import Plan
from pipeline.tuning.trial import METRIC, Report, Task, run_trial, settled

SEEDS = 2**31  # there are so many
MOST = 50  # of `tune.seeds`
LIVES = 4  # times that a training may be lost with its process or machine


@dataclass(frozen=True)
class Setting:
    """Values that are trained again.

    Args:
        trial: that had them; None for given values that no trial had.
        values: of the keys that are tuned.
        search: the value that the search found for them.
        given: they are those of `params.yaml`.
        free: they keep the constraints, as far as is known, so they may be chosen.
    """

    trial: int | None
    values: Plain
    search: float | None
    given: bool = False
    free: bool = True

    @property
    def name(self) -> str:
        """The trial's, or 'the given setting'."""
        return "the given setting" if self.given else f"trial {self.trial}"


@dataclass(frozen=True)
class Final:
    """One setting trained with one fresh seed: its loss and that of each validation sample, or why there is none."""

    loss: float | None
    samples: np.ndarray | None = None
    reason: str = ""


Found = dict[tuple[int, int], Final]  # by the place of the setting and the seed
After = Callable[[int, Setting, int, Final], None]  # the number of a training, and its seed


def fresh_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Seeds that neither the search nor the stage `train` uses.

    >>> fresh_seeds(7, 2)
    (8, 9)
    """
    return tuple((seed + 1 + at) % SEEDS for at in range(count))


def contenders(study: optuna.Study, plan: Plan, given: Plain) -> list[Setting]:
    """The given values, then the best trials that have others, each setting once; `tune.top` trials are looked at."""

    def key(values: Plain) -> tuple[object, ...]:
        job = settled(plan.jobs[0], values, plan.settings.space)
        return job.model, job.train

    first = Setting(
        None, given, None, given=True, free=not any(plan.settings.constraints.model_dump().values())
    )
    found, top = {key({}): first}, 0
    for trial in ranked(study):
        at = key(trial.params)
        value = float(loss(trial))
        if at == key({}) and first.trial is None:
            found[at] = first = Setting(trial.number, given, value, given=True)
        elif at not in found and top < plan.settings.top:
            found[at] = Setting(trial.number, trial.params, value)
        else:
            continue
        top += 1
    return list(found.values())


class Finals:
    """Trains every setting with every fresh seed; what an earlier session finished is read, not trained again."""

    def __init__(self, plan: Plan, settings: list[Setting], after: After) -> None:
        self.plan, self.settings, self.after = plan, settings, after
        self.curves = Curves(plan.folder)
        self.found: Found = {}
        self.lost: Counter[int] = Counter()
        self.tasks = {task.number: (place, task) for place, task in tasks_of(plan, settings)}

    def run(self) -> Found:
        """Train what is not there.

        Raises:
            UserError: one was lost with its process again and again.
        """
        waiting = []
        for place, task in self.tasks.values():
            if final := kept(file_of(task)):
                self.note(place, task, final)
            else:
                self.curves.open(task.number)
                waiting.append(task)
        with executor(run_final, self.answer, self.plan.compute) as pool:
            while waiting or pool.running:
                while waiting and pool.running < pool.size:
                    pool.submit(waiting.pop(0))
                done = pool.wait()
                if done.error is not None:
                    raise done.error
                if done.result is None:
                    self.count_loss(done.task, done.lost)
                    waiting.insert(0, done.task)
                else:
                    self.end(done.task, done.result)
        return self.found

    def answer(self, task: Task, report: Report) -> bool:
        """Keep an epoch; nothing is pruned."""
        self.curves.add(task.number, report)
        return False

    def count_loss(self, task: Task, how: str) -> None:
        """Give up after some losses of one training."""
        self.lost[task.number] += 1
        if self.lost[task.number] == LIVES:
            raise UserError(f"a training on fresh seeds was lost {LIVES} times, the last time {how}")

    def end(self, task: Task, final: Final) -> None:
        """Keep what a training gave, unless it failed: the next session tries that again."""
        if final.loss is not None:
            keep(file_of(task), final)
        shutil.rmtree(task.folder, ignore_errors=True)
        self.curves.close(task.number)
        place, _ = self.tasks[task.number]
        said = f"{METRIC} {final.loss:.4f}" if final.loss is not None else f"failed: {final.reason}"
        count = f"{len(self.found) + 1} of {len(self.tasks)}"
        seed = task.jobs[0].seed
        print(f"tune: {self.settings[place].name} with fresh seed {seed}: {said} ({count})", file=sys.stderr)
        self.note(place, task, final)

    def note(self, place: int, task: Task, final: Final) -> None:
        """Count it as found."""
        seed = task.jobs[0].seed
        self.found[place, seed] = final
        self.after(task.number, self.settings[place], seed, final)


def tasks_of(plan: Plan, settings: list[Setting]) -> Iterator[tuple[int, Task]]:
    """A task for each setting, told by its place, and seed; its number stays if there are more settings or seeds."""
    for place, setting in enumerate(settings):
        for at, seed in enumerate(fresh_seeds(plan.seed, plan.settings.seeds)):
            number = (0 if setting.trial is None else 1 + setting.trial) * MOST + at
            jobs = tuple(settled(job, setting.values, plan.settings.space) for job in plan.jobs)
            yield place, Task(
                number, tuple(replace(job, seed=seed) for job in jobs), plan.folder / str(number),
                pruned=False, values=setting.values, losses=True,
            )  # fmt: skip


def kept(path: Path) -> Final | None:
    """What an earlier session kept of a training; None where it finished none, or the file is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Final(float(arrays["loss"]), arrays.get("samples"))
    except (ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def file_of(task: Task) -> Path:
    """Where the result of a task is kept, beside its folder."""
    return task.folder.with_name(f"{task.folder.name}.npz")


def keep(path: Path, final: Final) -> None:
    """Write a result, whole or not at all."""
    fresh = path.with_suffix(".new.npz")
    arrays: dict[str, Any] = {} if final.samples is None else {"samples": final.samples}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(fresh, loss=np.float64(final.loss), **arrays)
    fresh.replace(path)


def run_final(task: Task, ask: Ask) -> Final:
    """What a worker does: train to the end, and bring along the loss of each validation sample."""
    outcome = run_trial(task, ask)
    if outcome.state != "complete":
        return Final(None, reason=outcome.reason)
    return Final(outcome.measures[METRIC], samples_of(task))


def samples_of(task: Task) -> np.ndarray | None:
    """Losses (N,) of the samples of all folds, scaled so that their mean is that of the folds, which count alike."""
    files = [task.losses_of(fold) for fold in range(len(task.jobs))]
    parts = [np.load(file, allow_pickle=False) for file in files if file.exists()]
    if len(parts) < len(files) or not all(map(len, parts)):
        return None
    size = sum(map(len, parts)) / len(parts)
    return np.concatenate([part * (size / len(part)) for part in parts])
