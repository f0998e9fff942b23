"""The task of `benchmarks/scale.py`: nothing but questions. A module of its own, as it is sent to other processes."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.tasks import Ask


@dataclass(frozen=True)
class Asking:
    """A task with so many questions."""

    questions: int


def asks(task: Asking, ask: Ask) -> int:
    """Ask them, one after the other."""
    for number in range(task.questions):
        assert ask(number) == number
    return task.questions
