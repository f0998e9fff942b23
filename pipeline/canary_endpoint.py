"""Trials on the project's endpoint: of promoted versions only, each in the history and the registry."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from pipeline import history, registry
from pipeline.canary import Trial
from pipeline.canary_record import STOP, End, Look, Plan, finish_record, latest, withdraw
from pipeline.core.params import UserError, section
from pipeline.core.project import Name
from pipeline.endpoint import Report, rollout, tag_served
from pipeline.served import FOLDER
from pipeline.store import Blessed, fetch
from serving.deploy import changing
from serving.server import ServerSettings
from serving.settings import ServerError

PATIENCE = 120.0  # seconds that a watcher may take to end its trial
SAID: dict[End, str] = {
    "promoted": "canary",
    "rolled back": "rollback",
    "inconclusive": "rollback",
    "withdrawn": "canary-end",
}


def run(
    report: Report,
    show: Callable[[Look], None],
    plan: Plan,
    name: str | None = None,
    wanted: str | None = None,
) -> tuple[End, Look]:
    """Try a promoted version beside what serves, and keep the better of the two.

    What was rolled back, or could not be told apart, is not brought by `up` any more, only by `deploy`.

    Raises:
        UserError: the version was not promoted, or the plan does not fit the server.
        ServerError: no server runs, or the challenger does not come up.
    """
    name = name or section("name", Name)
    limit = section("server", ServerSettings).response_timeout
    if plan.timeout_ms >= 1000 * limit:
        raise UserError(
            f"--timeout-ms {plan.timeout_ms}: expected less than the {limit} s of 'server.response_timeout', after "
            "which the server ends the worker that waits"
        )
    with changing(FOLDER), rollout(report) as change:
        change.repair()
        found = fetch(name, wanted)
        trial = Trial(change, name, found.version, found.archive, plan)
        return _tried(report, show, trial, found)


def _tried(report: Report, show: Callable[[Look], None], trial: Trial, found: Blessed) -> tuple[End, Look]:
    before, after = trial.champion, found.version
    why = f"{trial.plan.mode} of {trial.plan.share:g}, at most {trial.plan.minutes:g} minutes"
    history.record("canary-begin", found.name, before, after, found.receipt, reason=why)
    _tag(report, found, {"canary": "running", "canary_against": before, "canary_began": history.now()})

    def switched(look: Look) -> None:
        history.record(
            "canary", found.name, before, after, found.receipt, reason=look.reason, shown=look.plain()
        )

    try:
        end, look = trial.run(show, switched)
    except BaseException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        history.record("canary-end", found.name, before, after, found.receipt, ok=False, reason=reason)
        _tag(report, found, {"canary": "failed", "canary_reason": reason})
        raise
    reason = f"{end}: {look.reason}"
    if end == "promoted":
        tag_served(found.name, before, after, report)
    elif SAID[end] == "rollback":
        history.record("rollback", found.name, after, before, reason=f"canary {reason}", shown=look.plain())
    else:
        history.record(
            SAID[end], found.name, before, after, found.receipt, ok=False, reason=reason, shown=look.plain()
        )
    _tag(report, found, {"canary": end, "canary_reason": reason, **_numbers(look)})
    return end, look


def _numbers(look: Look) -> dict[str, str]:
    """What the decision rests on, and when it fell."""
    kept = {key: look.plain()[key] for key in ("elapsed", "requests", "faults", "labelled", "criteria")}
    return {"canary_statistics": json.dumps(kept), "canary_ended": history.now()}


def _tag(report: Report, found: Blessed, tags: dict[str, str]) -> None:
    """Say it in the registry; one that does not answer is only reported, as a trial must go on without it."""
    try:
        registry.tag(found.name, found.receipt.registry_version, tags)
    except UserError as error:
        report(f"the registry does not say so yet: {error}")


def stop(report: Report) -> dict[str, Any]:
    """End the trial that runs, in whichever process, and give its record; clear up after a watcher that was killed.

    Raises:
        UserError: none runs.
        ServerError: it does not end.
    """
    found = latest(FOLDER)
    if found is None or found[1]["end"]:
        raise UserError("no canary runs")
    folder, record = found
    (folder / STOP).touch()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        seen = latest(FOLDER)
        if seen is None or seen[0] != folder or seen[1]["end"]:
            return seen[1] if seen else record
        try:
            with changing(FOLDER):
                return _cleared(report)
        except ServerError:  # the watcher holds it, and will see the sign
            time.sleep(0.3)
    raise ServerError(f"the process that watches (pid {record['pid']}) does not end: end it, and try again")


def _cleared(report: Report) -> dict[str, Any]:
    """What a killed watcher left is taken away."""
    found = latest(FOLDER)
    assert found
    folder, record = found
    if record["end"]:
        return record
    withdraw(FOLDER)
    with rollout(report) as change:
        change.repair()
    reason = "its watcher was gone"
    history.record(
        "canary-end", record["model"], record["champion"], record["challenger"], ok=False, reason=reason
    )
    return finish_record(folder, record, "withdrawn")
