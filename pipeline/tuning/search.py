"""The coordinator of a study: asks Optuna for values, hands trials to workers, and tells what became of them."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.engine.tasks import Executor, Work, executor
from pipeline.fitting.compute import Compute
from pipeline.fitting.conditions import drawn
from pipeline.fitting.fit import Job
from pipeline.fitting.trainer import device_of
from pipeline.tuning.budget import Budget
from pipeline.tuning.constraints import constrain
from pipeline.tuning.curves import Curves
from pipeline.tuning.progress import Progress
from pipeline.tuning.pruners import point, pruner_of
from pipeline.tuning.samplers import sampler_of, trials_at_most
from pipeline.tuning.settings import Tune
from pipeline.tuning.study import ALONE, LOST, REPORTS, ended, unfinished
from pipeline.tuning.task import METRIC, Outcome, Report, Task
from pipeline.tuning.trial import run_trial, settled

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
LOSSES = 3  # of one trial, with no epoch in between, after which it is taken for the cause
After = Callable[[FrozenTrial, list[dict[str, float]]], None]  # a trial that ended, and its epochs


@dataclass(frozen=True)
class Plan:
    """What is searched, and with what.

    Args:
        jobs: what to fit with the given values, one for each fold; none where `work` goes by a task's values.
        folder: for the trials' checkpoints.
    """

    settings: Tune
    jobs: tuple[Job, ...]
    seed: int
    folder: Path
    compute: Compute


class Coordinator:
    """Runs one study to the end of its budget; `work` is what workers do with a trial's task.

    Whatever is killed when: a trial that ended is stored, and one that did not is gone on with under its number.
    """

    def __init__(
        self,
        study: optuna.Study,
        plan: Plan,
        after: After | None,
        work: Work[Task, Outcome] = run_trial,
    ) -> None:
        self.study, self.plan, self.after, self.work = study, plan, after, work
        self.live: dict[int, Trial] = {}
        self.curves = Curves(plan.folder)
        past = ended(study)
        trials = trials_at_most(study, plan.settings, plan.seed)
        self.budget = Budget(study, plan.settings, trials, joules_spent(past))
        self.shown = Progress(self.budget, dict(Counter(each.state for each in past)), lowest(past))
        study.pruner = pruner_of(plan.settings, len(plan.jobs))
        study.sampler = sampler_of(study, plan.settings, plan.seed)

    def run(self) -> None:
        """Go on with what was interrupted, then begin trials until the budget is spent; wait for all of them."""
        if self.plan.jobs and self.plan.compute.engine == "local":
            device_of(self.plan.compute)  # a GPU that is not there is no trial's fault
        self.tidy()
        with self.budget.running(), self.shown, executor(self.work, self.answer, self.plan.compute) as pool:
            try:
                self.search(pool)
            except BaseException as error:
                self.stopped(error)
                raise

    def search(self, pool: Executor[Task, Outcome]) -> None:
        """Keep the workers busy."""
        waiting = unfinished(self.study)
        while True:
            while pool.running < pool.size and (waiting or self.may_begin()):
                self.submit(pool, self.begin(waiting.pop(0) if waiting else None))
            if not pool.running:
                return
            done = pool.wait()
            if done.error is not None:
                raise done.error
            if done.result is not None:
                self.end(done.task, done.result)
            else:
                count_loss(self.live[done.task.number], self.curves.told(done.task.number))
                self.submit(pool, done.task, done.lost)

    def submit(self, pool: Executor[Task, Outcome], task: Task, lost: str = "with the whole stage") -> None:
        """Hand a task out, unless it was lost too often; one that runs in this process is marked before."""
        trial = self.live[task.number]
        if trial.user_attrs.get(ALONE):
            count_loss(trial, self.curves.told(task.number))
        if losses(trial) >= LOSSES:
            reason = f"lost {losses(trial)} times without an epoch in between, the last time {lost}"
            self.end(task, Outcome("failed", reason=reason))
            return
        if trial.user_attrs.get(ALONE, False) != (not pool.apart):
            trial.set_user_attr(ALONE, not pool.apart)
        pool.submit(task)

    def may_begin(self) -> bool:
        """True while the budget is not spent."""
        running = sum(self.curves.spent(number)["joules"] for number in self.live)
        return self.budget.allows(self.shown.ended + len(self.live), running)

    def begin(self, trial: Trial | None) -> Task:
        """The task of the next trial, or of one to go on with; its values are stored before it is handed out."""
        settings, asked = self.plan.settings, trial or self.study.ask()
        values = drawn(settings.space, lambda name, domain: domain.suggest(asked, name))
        jobs = tuple(settled(job, values, settings.space) for job in self.plan.jobs)
        self.live[asked.number] = asked
        self.curves.open(asked.number)
        epochs = settings.max_epochs * max(1, len(jobs))
        self.shown.began(asked.number, values, epochs, self.curves.told(asked.number))
        return Task(
            asked.number, jobs, self.plan.folder / str(asked.number), values=values,
            most=settings.constraints.parameters, timed=settings.times,
        )  # fmt: skip

    def answer(self, task: Task, report: Report) -> bool:
        """Keep an epoch, first on disk, then in the study; True where the trial is to be pruned.

        An epoch that is told again, as its worker was killed before its checkpoint was written, counts once.
        """
        self.curves.add(task.number, report)
        self.shown.epoch(task.number, self.curves.told(task.number), report.metrics[METRIC])
        if math.isnan(report.metrics[METRIC]):
            return False  # the worker ends the trial as failed
        trial, told = self.live[task.number], self.curves.live[task.number]
        at = point(self.plan.settings, len(self.plan.jobs), report, told)
        if at is None:
            return False
        trial.report(at.value, at.step)
        return trial.should_prune()

    def end(self, task: Task, outcome: Outcome) -> None:
        """Tell the study how a trial ended; what it left is removed after that."""
        trial, settings = self.live.pop(task.number), self.plan.settings
        measures = {**outcome.measures, **self.curves.spent(task.number)}
        self.budget.joules += measures["joules"]
        for name, value in measures.items():
            trial.set_user_attr(name, value)
        constrain(trial, measures, settings.constraints)
        if len(settings.objectives) > 1:  # Optuna keeps no reports of such a trial
            each = 1 if len(self.plan.jobs) <= 1 else settings.max_epochs
            trial.set_user_attr(REPORTS, self.curves.told(task.number) // each)
        if outcome.reason:
            trial.set_user_attr("reason", outcome.reason)
        whole = outcome.state == "complete"
        values = [measures[name] for name in settings.objectives] if whole else None
        told = self.study.tell(trial, values, state=STATES[outcome.state])
        shutil.rmtree(task.folder, ignore_errors=True)
        curve = self.curves.close(task.number)
        self.shown.over(told)
        if self.after is None:
            self.curves.drop(task.number)
        else:
            self.after(told, curve)

    def tidy(self) -> None:
        """Remove the checkpoints of trials that ended just before the stage was killed."""
        kept = {str(trial.number) for trial in unfinished(self.study)}
        for folder in self.plan.folder.glob("*"):
            if folder.is_dir() and folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def stopped(self, error: BaseException) -> None:
        """Note that running trials were not lost by their own fault, and say what is kept."""
        for trial in self.live.values():
            if trial.user_attrs.get(ALONE):
                trial.set_user_attr(ALONE, False)
        if isinstance(error, KeyboardInterrupt):
            self.shown.say(
                f"{self.shown.ended} trials are kept; {len(self.live)} that were running go on from their last epoch "
                "with the next 'dvc repro'"
            )


def losses(trial: Trial) -> int:
    """How often a trial was lost with its process since its last epoch."""
    count: int = trial.user_attrs.get(LOST, [0, 0])[0]
    return count


def count_loss(trial: Trial, epochs: int) -> None:
    """Count that a trial was lost with its process; those before its last epoch are forgiven, as it gets on."""
    count, told = trial.user_attrs.get(LOST, [0, epochs])
    trial.set_user_attr(LOST, [count + 1 if told == epochs else 1, epochs])


def joules_spent(trials: list[FrozenTrial]) -> float:
    """Energy of trials that ended."""
    return sum(trial.user_attrs.get("joules", 0.0) for trial in trials)


def lowest(trials: list[FrozenTrial]) -> float | None:
    """The best value of finished trials, where there is one objective."""
    values = [
        trial.values[0] for trial in trials if trial.state == TrialState.COMPLETE and len(trial.values) == 1
    ]
    return min(values, default=None)
