"""What a study may spend, in trials, minutes and joules, and what it spent, over all its sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import optuna

from pipeline.core.pulse import pulse
from pipeline.tuning.settings import Tune
from pipeline.tuning.study import SECONDS, seconds_spent

PULSE = 2.0  # seconds between notes of them: what a kill can lose


class Budget:
    """What is left of it; counts while it runs.

    Args:
        trials: at most; fewer than `settings.trials` where there are no more to ask for.
        joules: spent in earlier sessions.
    """

    def __init__(self, study: optuna.Study, settings: Tune, trials: int, joules: float) -> None:
        self.study, self.settings, self.trials, self.joules = study, settings, trials, joules
        self._before = seconds_spent(study)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent in all sessions."""
        return self._before + time.monotonic() - self._began

    def allows(self, begun: int, joules: float) -> bool:
        """True where one more trial may begin after so many, with so much energy spent in the running ones."""
        enough = self.settings.joules and self.joules + joules >= self.settings.joules
        return begun < self.trials and self.seconds < 60 * self.settings.minutes and not enough

    def left(self, begun: int, ended_here: int) -> float:
        """Seconds until the end, as the trials of this session went; those of the budget of minutes at most."""
        minutes = max(0.0, 60 * self.settings.minutes - self.seconds)
        if not ended_here:
            return minutes
        each = (time.monotonic() - self._began) / ended_here
        return min(minutes, each * max(0, self.trials - begun))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count while the block runs; the time is noted with the study now and then, as a kill may come."""
        self._began = time.monotonic()
        try:
            with pulse(self._note, PULSE, "budget"):
                yield
        finally:
            self._note()

    def _note(self) -> None:
        self.study.set_user_attr(SECONDS, self.seconds)
