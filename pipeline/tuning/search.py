"""The coordinator of a study: asks Optuna for values, hands trials to workers, and tells what became of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.core.params import UserError
from pipeline.engine.tasks import Work, executor
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job
from pipeline.tuning.pruners import PRUNERS
from pipeline.tuning.samplers import SAMPLERS
from pipeline.tuning.settings import Tune
from pipeline.tuning.study import ended, seconds_spent, unfinished
from pipeline.tuning.trial import METRIC, Outcome, Report, Task, run_trial, settled

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
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
    """Runs one study to the end of its budget; `work` is what workers do with a trial's task."""

    def __init__(
        self, study: optuna.Study, plan: Plan, after: After, work: Work[Task, Outcome] = run_trial
    ) -> None:
        self.study, self.plan, self.after, self.work = study, plan, after, work
        self.live: dict[int, Trial] = {}
        self.curves: dict[int, list[dict[str, float]]] = {}
        reports = plan.settings.max_epochs if len(plan.jobs) <= 1 else len(plan.jobs)
        study.pruner = PRUNERS[plan.settings.pruner](plan.settings, reports)

    def run(self) -> None:
        """Go on with what was interrupted, then begin trials until the budget is spent; wait for all of them."""
        with executor(self.work, self.answer, self.plan.compute) as pool:
            waiting = unfinished(self.study)
            while True:
                while pool.running < pool.size and (waiting or self.may_begin()):
                    pool.submit(self.begin(waiting.pop(0) if waiting else None))
                if not pool.running:
                    return
                done = pool.wait()
                if done.error is not None:
                    raise done.error
                if done.result is None:
                    raise UserError(f"trial {done.task.number} was lost: {done.lost}")
                self.end(done.task, done.result)

    def may_begin(self) -> bool:
        """True while the budget is not spent."""
        settings = self.plan.settings
        begun = len(ended(self.study)) + len(self.live)
        return begun < settings.trials and seconds_spent(self.study) < 60 * settings.minutes

    def begin(self, trial: Trial | None) -> Task:
        """The task of the next trial, or of one to go on with; its values are stored before it is handed out."""
        settings, number = self.plan.settings, len(self.study.get_trials(deepcopy=False))
        self.study.sampler = SAMPLERS[settings.sampler](
            settings, self.plan.seed, trial.number if trial else number
        )
        trial = trial or self.study.ask()
        values = {name: domain.suggest(trial, name) for name, domain in settings.space.items()}
        self.live[trial.number], self.curves[trial.number] = trial, []
        jobs = tuple(settled(job, values, settings.space) for job in self.plan.jobs)
        return Task(trial.number, jobs, self.plan.folder / str(trial.number), values=values)

    def answer(self, task: Task, report: Report) -> bool:
        """Store an epoch; True where the trial is to be pruned."""
        trial = self.live[task.number]
        self.curves[task.number].append(report.metrics)
        for name, spent in (("seconds", report.seconds), ("joules", report.joules)):
            trial.set_user_attr(name, trial.user_attrs.get(name, 0.0) + spent)
        if len(self.plan.settings.objectives) > 1:
            return False
        trial.report(report.metrics[METRIC], report.epoch + 1)
        return trial.should_prune()

    def end(self, task: Task, outcome: Outcome) -> None:
        """Tell the study how a trial ended."""
        trial = self.live.pop(task.number)
        for name, value in outcome.measures.items():
            trial.set_user_attr(name, value)
        if outcome.reason:
            trial.set_user_attr("reason", outcome.reason)
        values = (
            [outcome.measures[name] for name in self.plan.settings.objectives] if outcome.measures else None
        )
        told = self.study.tell(trial, values, state=STATES[outcome.state])
        self.after(told, self.curves.pop(task.number))
