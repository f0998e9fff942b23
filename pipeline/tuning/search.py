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
from pipeline.fitting.conditions import drawn
from pipeline.fitting.fit import Job
from pipeline.tuning.constraints import constrain
from pipeline.tuning.pruners import pruned, pruner_of
from pipeline.tuning.samplers import sampler_of, trials_at_most
from pipeline.tuning.settings import Tune
from pipeline.tuning.study import ended, seconds_spent, unfinished
from pipeline.tuning.trial import Outcome, Report, Task, run_trial, settled

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
After = Callable[[FrozenTrial, list[dict[str, float]]], None]  # a trial that ended, and its epochs


@dataclass(frozen=True)
class Plan:
    """What is searched, and with what.

    Args:
        jobs: what to fit with the given values, one for each fold.
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
        study.pruner = pruner_of(plan.settings, len(plan.jobs))
        study.sampler = sampler_of(study, plan.settings, plan.seed)
        self.trials = trials_at_most(study, plan.settings, plan.seed)

    def run(self) -> None:
        """Go on with what was interrupted, then begin trials until the budget is spent; wait for all of them."""
        with executor(self.work, self.answer, self.plan.compute.workers) as pool:
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
        return begun < self.trials and seconds_spent(self.study) < 60 * settings.minutes

    def begin(self, trial: Trial | None) -> Task:
        """The task of the next trial, or of one to go on with; its values are stored before it is handed out."""
        settings, asked = self.plan.settings, trial or self.study.ask()
        values = drawn(settings.space, lambda name, domain: domain.suggest(asked, name))
        self.live[asked.number], self.curves[asked.number] = asked, []
        jobs = tuple(settled(job, values, settings.space) for job in self.plan.jobs)
        return Task(
            asked.number, jobs, self.plan.folder / str(asked.number), values=values,
            most=settings.constraints.parameters, timed=settings.times,
        )  # fmt: skip

    def answer(self, task: Task, report: Report) -> bool:
        """Store an epoch; True where the trial is to be pruned."""
        trial = self.live[task.number]
        self.curves[task.number].append(report.metrics)
        for name, spent in (("seconds", report.seconds), ("joules", report.joules)):
            trial.set_user_attr(name, trial.user_attrs.get(name, 0.0) + spent)
        return pruned(self.plan.settings, trial, task, report)

    def end(self, task: Task, outcome: Outcome) -> None:
        """Tell the study how a trial ended."""
        trial, settings = self.live.pop(task.number), self.plan.settings
        measures = {**outcome.measures, "joules": trial.user_attrs.get("joules", 0.0)}  # of all sessions
        for name, value in measures.items():
            trial.set_user_attr(name, value)
        constrain(trial, measures, settings.constraints)
        if outcome.reason:
            trial.set_user_attr("reason", outcome.reason)
        whole = outcome.state == "complete"
        values = [measures[name] for name in settings.objectives] if whole else None
        told = self.study.tell(trial, values, state=STATES[outcome.state])
        self.after(told, self.curves.pop(task.number))
