"""What is planned for a trial, what a look at it sees, and the record of both in the trial's folder."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.canary_observed import Arm, Margins
from pipeline.canary_statistics import Criterion
from serving.inputs.spec import read_json, write_json
from serving.worker.route import ROUTES
from serving.worker.trial_log import FOLDER

RECORD, STOP = "trial.json", "stop"
End = Literal["promoted", "rolled back", "inconclusive", "withdrawn"]


@dataclass(frozen=True)
class Plan:
    """How a trial goes.

    Args:
        mode: 'canary' or 'shadow'.
        share: of all requests, for the challenger or copied to it.
        minutes: longest duration; without a decision by then, the champion stays.
        min_requests: of each arm, before a promotion.
        min_labels: of each arm, before a promotion.
        timeout_ms: longest wait for the challenger.
        margins: what is tolerated.
        look: seconds between looks.
        lease: seconds after which a route that nobody renews is none.
    """

    mode: Literal["canary", "shadow"] = "canary"
    share: float = 0.1
    minutes: float = 30.0
    min_requests: int = 500
    min_labels: int = 0
    timeout_ms: int = 500
    margins: Margins = field(default_factory=Margins)
    look: float = 2.0
    lease: float = 15.0


@dataclass(frozen=True)
class Look:
    """What one look at a trial sees."""

    elapsed: float
    requests: dict[Arm, dict[str, int]]
    milliseconds: dict[Arm, tuple[float, float] | None]
    faults: dict[str, int]
    agreed: tuple[int, int]
    labelled: dict[Arm, int]
    dropped: int
    criteria: list[Criterion]
    decision: str
    reason: str

    def plain(self) -> dict[str, Any]:
        """As a dict, for receipts."""
        return {**asdict(self), "criteria": [each.plain() for each in self.criteria]}


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all, as others read it meanwhile."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    write_json(fresh, content)
    fresh.replace(path)


def withdraw(state: Path) -> None:
    """Let nobody be routed any more; workers notice at their next batch."""
    (state / ROUTES).unlink(missing_ok=True)


def latest(state: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest trial of a server: its folder and its record."""
    found = sorted((state / FOLDER).glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    with contextlib.suppress(OSError, ValueError):
        return (found[-1].parent, read_json(found[-1])) if found else None
    return None


def finish_record(folder: Path, record: dict[str, Any], end: End) -> dict[str, Any]:
    """Say of a trial whose watcher is gone how it ended."""
    record = {**record, "ended": time.time(), "end": end}
    write_whole(folder / RECORD, record)
    return record
