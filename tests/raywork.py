"""What the tests of engines have tasks do: a module, as it is sent to other processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.params import UserError
from pipeline.engine.tasks import Ask


@dataclass(frozen=True)
class Work:
    """What a task does: asks so many questions, and then what `end` says; its folder holds what it has done."""

    name: str
    questions: int = 3
    end: str = "returns"
    folder: str = "."


class Unsendable(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("cannot be sent")


def told(work: Work, ask: Ask) -> dict[str, object]:
    """Ask, each question once whatever becomes of the process, and end as told; gives answers and where it ran."""
    notes = Path(work.folder) / f"{work.name}.done"
    done = len(notes.read_text()) if notes.exists() else 0
    answers = []
    for number in range(done, work.questions):
        answers.append(ask((work.name, number)))
        with notes.open("a") as file:
            file.write(".")
    if work.end == "waits" and not (Path(work.folder) / "go").exists():
        (Path(work.folder) / f"{work.name}.waits").write_text(str(os.getpid()))
        while not (Path(work.folder) / "go").exists():
            time.sleep(0.05)
    if work.end == "fails":
        raise UserError(f"{work.name} is wrong")
    if work.end == "fails oddly":
        raise Unsendable(1, 2)
    if work.end == "dies" and not done:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"answers": answers, "folder": str(Path.cwd()), "threads": os.environ.get("OMP_NUM_THREADS")}
