"""The best trials trained again on fresh seeds, beside the given values, before one is chosen: no winner by luck.

A search that looks at many trials finds one that was lucky with its seed. Fresh seeds, the same ones for all, show
what is left of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from pipeline.core.params import UserError
from pipeline.engine.tasks import Ask, executor
from pipeline.fitting.space import Plain
from pipeline.tuning.search import Plan
from pipeline.tuning.study import ranked
from pipeline.tuning.trial import METRIC, Report, Task, run_trial, settled

SEEDS = 2**31  # there are so many
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


Finals = dict[tuple[int, int], Final]  # by the place of the setting and the seed
After = Callable[
    [Setting, int, Final, list[dict[str, float]] | None], None
]  # its seed, its epochs if of this session


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
        value = float(trial.user_attrs.get(METRIC, trial.values[0]))
        if at == key({}) and first.trial is None:
            found[at] = first = Setting(trial.number, given, value, given=True)
        elif at not in found and top < plan.settings.top:
            found[at] = Setting(trial.number, trial.params, value)
        else:
            continue
        top += 1
    return list(found.values())


def train_again(plan: Plan, settings: list[Setting], after: After) -> Finals:
    """Train every setting with every fresh seed; what an earlier session finished is read, not trained again.

    Raises:
        UserError: one was lost with its process again and again.
    """
    found: Finals = {}
    curves: dict[int, list[dict[str, float]]] = {}
    lost: dict[int, int] = {}

    def note(task: Task, final: Final, curve: list[dict[str, float]] | None) -> None:
        at, seed = task.number // plan.settings.seeds, task.jobs[0].seed
        found[at, seed] = final
        after(settings[at], seed, final, curve)

    def answer(task: Task, report: Report) -> bool:
        curves.setdefault(task.number, []).append(report.metrics)
        return False

    waiting = []
    for task in tasks_of(plan, settings):
        if final := kept(file_of(task)):
            note(task, final, None)
        else:
            waiting.append(task)
    with executor(run_final, answer, plan.compute) as pool:
        while waiting or pool.running:
            while waiting and pool.running < pool.size:
                pool.submit(waiting.pop(0))
            done = pool.wait()
            if done.error is not None:
                raise done.error
            if done.result is None:
                lost[done.task.number] = lost.get(done.task.number, 0) + 1
                if lost[done.task.number] == LIVES:
                    raise UserError(f"a training on fresh seeds was lost {LIVES} times: {done.lost}")
                waiting.insert(0, done.task)
                continue
            if done.result.loss is not None:  # a failure is tried again by the next session
                keep(file_of(done.task), done.result)
            shutil.rmtree(done.task.folder, ignore_errors=True)
            note(done.task, done.result, curves.get(done.task.number, []))
    return found


def tasks_of(plan: Plan, settings: list[Setting]) -> Iterator[Task]:
    """A task for each setting and seed, numbered setting by setting, in a folder named after the trial."""
    seeds = fresh_seeds(plan.seed, plan.settings.seeds)
    for at, setting in enumerate(settings):
        for place, seed in enumerate(seeds):
            jobs = tuple(settled(job, setting.values, plan.settings.space) for job in plan.jobs)
            named = "given" if setting.trial is None else str(setting.trial)
            yield Task(
                at * len(seeds) + place, tuple(replace(job, seed=seed) for job in jobs),
                plan.folder / f"{named}-{seed}", pruned=False, values=setting.values, losses=True,
            )  # fmt: skip


def kept(path: Path) -> Final | None:
    """What an earlier session kept of a training; None where it finished none."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return Final(float(arrays["loss"]), arrays.get("samples"))


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
