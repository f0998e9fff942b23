"""What a trial showed: one JSON line a forward pass, for the process that watches and decides.

A line: `at` (unix seconds), `arm`, `version`, `step` (id of the pass, its rows, milliseconds; null where unknown), and
`requests`: `[id, outcome, what was said]` each. Outcomes: `ok`; `refused`, where the champion refuses the request too;
`failed: WHY`; `lost: WHY`, which counts for nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.worker.hop import Answer, Fault
from serving.worker.messages import Reply, Request
from serving.worker.route import Route

FOLDER = "canary"
LIMIT = 64 * 1024**2  # bytes that one worker writes of one trial; both arms end together there
Step = tuple[str, int, float] | None


def said(content: Any) -> Any:
    """What of an answer is compared: its label, its values, or whether it is an anomaly."""
    if not isinstance(content, dict):
        return None
    return next((content[key] for key in ("label", "values", "anomaly") if key in content), None)


class TrialLog:
    """Writes what one worker sees into the trial's folder, which whoever began the trial made.

    Args:
        state: the server's state folder.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._salt = ""
        self._file: int | None = None
        self._passes = 0
        self._lock = threading.Lock()  # a shadow writes from a thread of its own

    def control(
        self, route: Route, requests: Sequence[Request], replies: Sequence[Reply], took: float
    ) -> None:
        """What the champion answered to its control group, in one pass of `took` milliseconds."""
        self._passes += 1
        rows = [
            [request.id, "ok", said(reply.said)]
            if reply.status == 200
            else [request.id, "refused" if reply.status < 500 else f"failed: status {reply.status}", None]
            for request, reply in zip(requests, replies, strict=True)
        ]
        self._write(route, "control", (f"{os.getpid()}-{self._passes}", len(requests), took), rows)

    def broken(self, route: Route, requests: Sequence[Request]) -> None:
        """The champion's own code failed on its control group."""
        self._write(route, "control", None, [[request.id, "failed: exception", None] for request in requests])

    def challenger(
        self,
        route: Route,
        requests: Sequence[Request],
        answers: Sequence[Answer | Fault],
        verdicts: Sequence[int],
        dropped: int = 0,
    ) -> None:
        """What the challenger answered, and with which status the champion answers what it did not."""
        by_step: dict[Step, list[list[Any]]] = {}
        for request, answer, status in zip(requests, answers, verdicts, strict=True):
            if isinstance(answer, Answer):
                by_step.setdefault(answer.step, []).append([request.id, "ok", said(answer.content)])
            else:
                by_step.setdefault(None, []).append([request.id, _outcome(answer, status), None])
        for step, rows in by_step.items():
            self._write(route, "challenger", step, rows, dropped)

    def _write(self, route: Route, arm: str, step: Step, rows: list[list[Any]], dropped: int = 0) -> None:
        version = route.champion if arm == "control" else route.challenger
        line = {"at": round(time.time(), 3), "arm": arm, "version": version, "step": step, "requests": rows}
        text = json.dumps(line | ({"dropped": dropped} if dropped else {})) + "\n"
        with self._lock, contextlib.suppress(OSError):  # a full disk must cost no answer
            file = self._opened(route.salt)
            if file is not None and os.fstat(file).st_size < LIMIT:
                os.write(file, text.encode())

    def _opened(self, salt: str) -> int | None:
        if salt != self._salt:
            if self._file is not None:
                os.close(self._file)
            self._salt, self._file = salt, None
            path = self._state / FOLDER / salt / f"{os.getpid()}.jsonl"
            if path.parent.is_dir():
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return self._file


def _outcome(fault: Fault, status: int) -> str:
    """A request that the champion refuses as well is no fault of the challenger's."""
    if not fault.counts:
        return f"lost: {fault.reason}"
    return "refused" if 400 <= status < 500 else f"failed: {fault.reason}"
