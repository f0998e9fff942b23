"""A trial of a challenger beside the champion: begins, is watched, and ends by itself.

The process that watches renews a lease every few seconds. Where it is killed the lease ends, so the champion answers
everybody again; the challenger's processes are taken away by whoever changes the server next, as `models.json` never
named them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline.canary_observed import ARMS, Observations
from pipeline.canary_record import RECORD, STOP, End, Look, Plan, withdraw, write_whole
from pipeline.canary_statistics import decide
from serving.deploy import Rollout
from serving.management import ManagementError
from serving.process import running
from serving.settings import ServerError
from serving.state import read_models
from serving.worker.route import ROUTES, Route
from serving.worker.trial_log import FOLDER

KEPT = 10  # trials whose observations are kept


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
        self._last: Look | None = None

    def run(
        self, show: Callable[[Look], None], switched: Callable[[Look], None] = lambda _: None
    ) -> tuple[End, Look]:
        """Try the challenger until the statistics decide, the time is over, or it is interrupted.

        Args:
            show: told each look.
            switched: called once the challenger is the default, before the old champion is drained.

        Raises:
            ServerError: the challenger does not come up, or the server is gone.
        """
        withdraw(self.rollout.folder)
        self.rollout.add(self.name, self.version, self.archive)
        end: End = "withdrawn"
        try:
            self._prepare()
            end = self._watch(show)
            if end == "promoted":
                self._promote(switched)
        except KeyboardInterrupt:
            self.rollout.report("interrupted: nobody is routed any more")
        finally:
            end = self._finish(end)
            look = self._last or self._look()
            self._record(look, end)
        return end, look

    def _watch(self, show: Callable[[Look], None]) -> End:
        while True:
            self._renew()
            look = self._last = self._look()
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
        write_whole(self.rollout.folder / ROUTES, asdict(route))

    def _ended(self, look: Look) -> End | None:
        if (self.folder / STOP).exists():
            return "withdrawn"
        if self._lost():
            raise ServerError(
                f"the server lost version {self.version} (did it start again?): the trial is withdrawn"
            )
        if look.decision == "promote":
            return "promoted"
        if look.decision == "roll back":
            return "rolled back"
        return "inconclusive" if look.elapsed >= self.plan.minutes * 60 else None

    def _lost(self) -> bool:
        """True where the server says that it does not run the challenger; one that is slow to answer says nothing."""
        try:
            return self.rollout.management.version(self.name, self.version) is None
        except ManagementError:
            return False

    def _wait(self) -> None:
        end = time.monotonic() + self.plan.look
        while time.monotonic() < end and not (self.folder / STOP).exists():
            time.sleep(0.1)

    def _promote(self, switched: Callable[[Look], None]) -> None:
        assert self._last
        try:
            self.rollout.switch(self.name, self.version, self.archive)
        except ServerError as error:
            self.rollout.report(f"the champion stays: {error}")
        else:
            switched(self._last)

    def _finish(self, end: End) -> End:
        """Let nobody be routed any more, then take away what is not the default; gives what came of it."""
        withdraw(self.rollout.folder)
        time.sleep(self.plan.timeout_ms / 1000)  # what is under way to the challenger comes back meanwhile
        served = read_models(self.rollout.folder).models.get(self.name)
        promoted = served is not None and served.default == self.version
        try:
            self.rollout.remove(self.name, self.champion if promoted else self.version)
        except ServerError as error:
            self.rollout.report(str(error))
        return "promoted" if promoted else "withdrawn" if end == "promoted" else end

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
        write_whole(self.folder / RECORD, content)


def _percentiles(milliseconds: np.ndarray) -> tuple[float, float] | None:
    if not len(milliseconds):
        return None
    return float(np.quantile(milliseconds, 0.5)), float(np.quantile(milliseconds, 0.99))
