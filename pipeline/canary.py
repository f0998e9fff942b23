"""A trial of a challenger beside the champion: begins, is watched, and ends by itself.

The process that watches renews a lease every few seconds. Where it is killed the lease ends, so the champion answers
everybody again; the challenger's processes are taken away by whoever changes the server next, as `models.json` never
named them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.canary_observed import ARMS, Arm, Margins, Observations
from pipeline.canary_statistics import Criterion, decide
from serving.config import ServerError
from serving.deploy import Rollout
from serving.inputs.spec import read_json, write_json
from serving.process import running
from serving.state import read_models
from serving.worker.route import ROUTES, Route
from serving.worker.trial_log import FOLDER

RECORD, STOP = "trial.json", "stop"
KEPT = 10  # trials whose observations are kept
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


class Trial:
    """One trial on a running server; use it inside `serving.deploy.changing`, since it is a change of what is served.

    Args:
        rollout: the server.
        name: the model.
        version: the challenger.
        archive: its `.mar` in the store.
        plan: how it goes.

    Raises:
        ServerError: the model is not served, or the challenger serves already.
    """

    def __init__(self, rollout: Rollout, name: str, version: str, archive: Path, plan: Plan) -> None:
        self.rollout, self.name, self.version, self.archive, self.plan = rollout, name, version, archive, plan
        served = read_models(rollout.folder).models.get(name)
        if served is None:
            raise ServerError(
                f"{name} is not served, so nothing can be tried beside it: 'fairlead serve up' first"
            )
        if served.default == version:
            raise ServerError(
                f"version {version} of {name} serves already: there is nothing to compare it with"
            )
        self.champion = served.default
        self.salt = secrets.token_hex(8)
        self.folder = rollout.folder / FOLDER / self.salt
        self._observations = Observations(self.folder)
        self._began = time.time()

    def run(self, show: Callable[[Look], None]) -> tuple[End, Look]:
        """Try the challenger until the statistics decide, the time is over, or it is interrupted.

        Raises:
            ServerError: the challenger does not come up, or the server is gone.
        """
        withdraw(self.rollout.folder)
        self.rollout.add(self.name, self.version, self.archive)
        end: End = "withdrawn"
        try:
            self._prepare()
            end = self._watch(show)
        except KeyboardInterrupt:
            self.rollout.report("interrupted: the champion answers everybody again")
        finally:
            end = self._finish(end)
            look = self._look()
            self._record(look, end)
        return end, look

    def _watch(self, show: Callable[[Look], None]) -> End:
        while True:
            self._renew()
            look = self._look()
            self._record(look)
            show(look)
            if end := self._ended(look):
                return end
            self._wait()

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, mode=0o700)
        others = sorted(self.folder.parent.glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime)
        for old in others[: -KEPT or None]:
            shutil.rmtree(old.parent, ignore_errors=True)
        self._began = time.time()

    def _look(self) -> Look:
        """Read what the workers saw since, and judge it all."""
        seen = self._observations
        seen.read()
        criteria = seen.criteria(self.plan.margins)
        counts = {arm: dict(seen.arms[arm].counts()) for arm in ARMS}
        labelled = seen.labelled()
        enough = (
            min(each.get("ok", 0) + each.get("failed", 0) for each in counts.values())
            >= self.plan.min_requests
            and min(labelled.values()) >= self.plan.min_labels
        )
        decision, reason = decide(criteria, enough)
        return Look(
            time.time() - self._began,
            counts,
            {arm: _percentiles(seen.milliseconds(arm)) for arm in ARMS},
            dict(seen.arms["challenger"].faults()),
            seen.agreement(),
            labelled,
            seen.dropped,
            criteria,
            decision,
            reason,
        )

    def _renew(self) -> None:
        endpoint = running(self.rollout.folder)
        if endpoint is None:
            raise ServerError("the server is gone, and the trial with it")
        until = min(time.time() + self.plan.lease, self._began + self.plan.minutes * 60)
        route = Route(
            self.name,
            self.champion,
            self.version,
            self.plan.mode,
            self.plan.share,
            self.salt,
            until,
            endpoint.url,
            self.plan.timeout_ms,
        )
        _replace(self.rollout.folder / ROUTES, asdict(route))

    def _ended(self, look: Look) -> End | None:
        if look.decision == "promote":
            return "promoted"
        if look.decision == "roll back":
            return "rolled back"
        if (self.folder / STOP).exists():
            return "withdrawn"
        if look.elapsed >= self.plan.minutes * 60:
            return "inconclusive"
        known = self.rollout.management.versions(self.name)
        if self.version not in known:
            raise ServerError(
                f"the server lost version {self.version} (did it start again?): the trial is withdrawn"
            )
        return None

    def _wait(self) -> None:
        end = time.monotonic() + self.plan.look
        while time.monotonic() < end and not (self.folder / STOP).exists():
            time.sleep(0.1)

    def _finish(self, end: End) -> End:
        """Let nobody be routed any more, then keep one of the two; gives what came of it."""
        if end == "promoted":
            try:
                self.rollout.switch(self.name, self.version, self.archive)
            except ServerError as error:
                self.rollout.report(f"the champion stays: {error}")
                end = "withdrawn"
        withdraw(self.rollout.folder)
        time.sleep(self.plan.timeout_ms / 1000)  # what is under way to the challenger comes back meanwhile
        try:
            self.rollout.remove(self.name, self.champion if end == "promoted" else self.version)
        except ServerError as error:
            self.rollout.report(str(error))
        return end

    def _record(self, look: Look, end: End | None = None) -> None:
        content = {
            "model": self.name,
            "champion": self.champion,
            "challenger": self.version,
            "began": self._began,
            "plan": asdict(self.plan),
            "pid": os.getpid(),
            "ended": time.time() if end else None,
            "end": end,
            "look": look.plain(),
        }
        _replace(self.folder / RECORD, content)


def _replace(path: Path, content: dict[str, Any]) -> None:
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


def _percentiles(milliseconds: np.ndarray) -> tuple[float, float] | None:
    if not len(milliseconds):
        return None
    return float(np.quantile(milliseconds, 0.5)), float(np.quantile(milliseconds, 0.99))
