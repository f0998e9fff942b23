"""What a search shows while it runs: a live display on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.tuning.budget import Budget

QUIET = 10.0  # seconds at least between two lines where there is no terminal
SHARE = 0.05  # of the time so far that passes between two lines: some 20 lines whenever the time grows by e
SHOWN = 8  # running trials that are named


@dataclass
class Running:
    """A trial that runs."""

    values: dict[str, Any]
    epochs: int  # of a whole trial, all folds together
    done: int = 0
    loss: float | None = None


@dataclass
class Progress:
    """Counts what happens in a study and shows it on stderr.

    Args:
        budget: says when it ends.
        counts: trials that ended in earlier sessions, by state.
        best: the best value so far, if one trial is the best.
        label: the first word.
    """

    budget: Budget
    counts: dict[TrialState, int]
    best: float | None = None
    label: str = "tune"
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    running: dict[int, Running] = field(default_factory=dict)
    here: int = 0  # trials that ended in this session
    _began: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)
    _live: Live | None = None

    @property
    def ended(self) -> int:
        """Trials that ended in all sessions."""
        return sum(self.counts.values())

    def began(self, number: int, values: dict[str, Any], epochs: int, done: int) -> None:
        """A trial was handed out."""
        self.running[number] = Running(values, epochs, done)

    def epoch(self, number: int, done: int, loss: float) -> None:
        """A trial told an epoch."""
        self.running[number].done, self.running[number].loss = done, loss

    def over(self, trial: FrozenTrial) -> None:
        """A trial ended."""
        self.running.pop(trial.number, None)
        self.counts[trial.state] = self.counts.get(trial.state, 0) + 1
        self.here += 1
        if trial.state == TrialState.COMPLETE and trial.values and len(trial.values) == 1:
            self.best = trial.values[0] if self.best is None else min(self.best, trial.values[0])
        if reason := trial.user_attrs.get("reason"):
            self.say(f"trial {trial.number} {trial.state.name.lower()}: {reason}")
        self._now_and_then()

    def say(self, text: str) -> None:
        """A line of its own, above the display; so few that each is shown."""
        self.console.print(Text(f"{self.label}: {text.splitlines()[0]}"), soft_wrap=True)

    def line(self) -> str:
        """All of it in one line."""
        best = "" if self.best is None else f", best {self.best:.4f}"
        failed = self.counts.get(TrialState.FAIL, 0)
        parts = [
            f"{self.ended} of {self.budget.trials} trials{best}",
            f"{len(self.running)} running",
            f"{self.counts.get(TrialState.PRUNED, 0)} pruned",
            *([f"{failed} failed"] if failed else []),
            f"{clock(self.budget.left(self.ended, self.here))} left at most",
        ]
        return ", ".join(parts)

    def __rich__(self) -> Group:
        """The display."""
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, self.budget.trials), completed=self.ended, width=20)
        head.add_row(Text(self.label, style="bold"), bar, Text(self.line()))
        rows = Table.grid(padding=(0, 2))
        for number, trial in list(self.running.items())[:SHOWN]:
            loss = "" if trial.loss is None else f"{trial.loss:.4f}"
            values = ", ".join(
                f"{name.rpartition('.')[2]} {short(value)}" for name, value in trial.values.items()
            )
            rows.add_row(
                f"  trial {number}",
                f"epoch {trial.done} of {trial.epochs}",
                loss,
                Text(values, overflow="ellipsis", no_wrap=True),
            )
        if len(self.running) > SHOWN:
            rows.add_row(f"  and {len(self.running) - SHOWN} more")
        return Group(head, rows)

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def _now_and_then(self) -> None:
        now = time.monotonic()
        if self._live is None and now - self._said > max(QUIET, SHARE * (now - self._began)):
            self._said = now
            self.say(self.line())


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(3725)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def short(value: Any) -> str:
    """A value in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
