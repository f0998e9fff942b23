"""The project's endpoint: every change of what it serves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline import history, registry
from pipeline.certify import Certify
from pipeline.core.params import UserError, section
from pipeline.core.project import Name
from pipeline.served import FOLDER, describe
from pipeline.store import Blessed, again, fetch, stored
from serving.deploy import Rollout, changing
from serving.endpoint import Endpoint, Kind
from serving.process import running, stop
from serving.settings import ServerError, ServerSettings
from serving.state import Models, read_models, write_models
from serving.supervisor import Plan, supervise

Report = Callable[[str], None]


def start(report: Report, kind: Kind | None = None) -> Endpoint:
    """Bring the server up with what it served before, or else with the champion, and then the champion to it.

    A server that runs is left as it is; a champion that is newer than what it serves is rolled out, unless it was
    rolled back from.

    Args:
        report: told each step.
        kind: which server, that of `server.kind` unless it is given.

    Raises:
        UserError: nothing is promoted.
        ServerError: it cannot start.
    """
    name = section("name", Name)
    with changing(FOLDER):
        live = running(FOLDER)
        if live is not None and kind not in (None, live.kind):
            raise ServerError(f"{live.kind} runs already: 'fairlead serve down' stops it")
        if live is None:
            _run(_restored(name, report), report, kind)
        with rollout(report) as change:
            if live is not None:
                _repair(change)
            fresh = _newer(name, report)
            if fresh is not None:
                replace(change, "up", fresh)
        report(f"already running\n{describe()}" if live and not fresh else describe())
    endpoint = running(FOLDER)
    if endpoint is None:
        raise ServerError(f"the server ended meanwhile; see {FOLDER / 'server.log'}")
    return endpoint


def deploy(report: Report, name: str | None = None, wanted: str | None = None) -> None:
    """Let a promoted version take the place of what serves, the champion unless another is named.

    Raises:
        UserError: it was not promoted.
        ServerError: no server runs, or the version is not up to it; the old serves as before.
    """
    name = _named(name)
    with changing(FOLDER), rollout(report) as change:
        _repair(change)
        found = fetch(name, wanted)
        if _default(name) == found.version:
            report(f"version {found.version} of {name} serves already")
            return
        replace(change, "deploy", found)
        report(describe())


def rollback(report: Report, name: str | None = None) -> None:
    """Let the version that was the default before take the place of what serves.

    Raises:
        UserError: the history knows none, or it is nowhere to be had.
        ServerError: no server runs, or the version is not up to it.
    """
    name = _named(name)
    with changing(FOLDER), rollout(report) as change:
        current = _default(name)
        known = history.defaults(name)
        earlier = known[:-1] if known and known[-1] == current else known
        if not earlier:
            raise UserError(f"the history knows no version of '{name}' before {current}")
        replace(change, "rollback", again(name, earlier[-1]))
        change.repair()
        report(describe())


def down(report: Report) -> bool:
    """Stop the server with all its processes, whatever else is wrong; True where one ran."""
    ran = running(FOLDER) is not None
    stopped = stop(FOLDER)
    try:
        for name, served in read_models(FOLDER).models.items() if ran else ():
            history.record("down", name, served.default, None)
    except (ServerError, UserError) as error:
        report(f"the history does not say so: {error}")
    return stopped


@contextmanager
def rollout(report: Report) -> Iterator[Rollout]:
    """Changes of the running server, with the project's settings.

    Raises:
        ServerError: none runs.
    """
    if running(FOLDER) is None:
        raise ServerError("no server is running; 'fairlead serve up' starts it")
    settings, certify = section("server", ServerSettings), section("certify", Certify)
    with Rollout(FOLDER, settings, certify.tolerance, report) as change:
        yield change


def replace(change: Rollout, action: str, found: Blessed) -> None:
    """Let a blessed version take the default's place, and say so in the history and the registry.

    Raises:
        ServerError: it is not up to it; the history says why.
    """
    old = _default(found.name)

    def switched(before: str | None) -> None:
        history.record(action, found.name, before, found.version, found.receipt)

    try:
        change.replace(found.name, found.version, found.archive, switched)
    except BaseException as error:
        if _default(found.name) != found.version:
            said = str(error).splitlines()
            reason = said[0] if said else type(error).__name__
            history.record(action, found.name, old, found.version, found.receipt, ok=False, reason=reason)
        raise
    finally:
        if _default(found.name) == found.version:
            tag_served(found.name, old, found.version, change.report)


def tag_served(name: str, before: str | None, after: str, report: Report) -> None:
    """Say in the registry since when a version serves, and until when another did; a dead one is only reported."""
    at = history.now()
    before = None if before == after else before
    try:
        for version, tags in (
            (before, {"served_until": at}),
            (after, {"served_at": at, "served_until": None}),
        ):
            found = stored(name, version) if version else None
            if found is not None:
                registry.tag(name, found.receipt.registry_version, tags)
    except UserError as error:
        report(f"the registry does not say so yet: {error}")


def _restored(name: str, report: Report) -> Models:
    """What `models.json` names, each version as it was certified; the champion where it names nothing."""
    models = Models()
    for each, served in read_models(FOLDER).models.items():
        for version in sorted(served.versions, key=lambda version: version != served.default):
            found = again(each, version)
            add = models.serving if version == served.default else models.beside
            models = add(each, version, found.archive)
    if name not in models.models:
        champion = fetch(name)
        models = models.serving(name, champion.version, champion.archive)
        report(f"version {champion.version} of {name} is the champion")
    return models


def _run(models: Models, report: Report, kind: Kind | None) -> None:
    """Start a supervisor that starts a server with these models, and return once each has answered."""
    write_models(FOLDER, models)
    settings = section("server", ServerSettings)
    supervise(FOLDER, Plan(settings=settings, kind=kind or settings.kind, model_api=True), report)
    for name, served in models.models.items():
        known = history.defaults(name)
        before = known[-1] if known else None
        found = stored(name, served.default)
        history.record("up", name, before, served.default, found.receipt if found else None)
        if before != served.default:
            tag_served(name, before, served.default, report)


def _repair(change: Rollout) -> None:
    """Take away what a killed change left, and add to the history what it had no time to."""
    change.repair()
    for name, served in read_models(FOLDER).models.items():
        known = history.defaults(name)
        if known and known[-1] != served.default:
            found = stored(name, served.default)
            receipt = found.receipt if found else None
            history.record(
                "repair", name, known[-1], served.default, receipt, reason="a change was cut short"
            )


def _newer(name: str, report: Report) -> Blessed | None:
    """The champion where it is not what serves, and was not rolled back from."""
    try:
        champion = registry.champion(name)
    except UserError as error:
        report(f"what serves stays, as the champion cannot be told: {error}")
        return None
    current = _default(name)
    if champion is None or champion.model_version == current:
        return None
    if history.given_up(name, champion.model_version):
        report(
            f"the champion {champion.model_version} was rolled back from, so {current} stays; 'fairlead serve deploy' "
            "brings it all the same"
        )
        return None
    return fetch(name)


def _named(name: str | None) -> str:
    """A model's name as it was given, or the project's."""
    if name is not None and not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise UserError(f"--name {name!r}: a model's name holds lower-case letters, digits, '-' and '_'")
    return name or section("name", Name)


def _default(name: str) -> str | None:
    served = read_models(FOLDER).models.get(name)
    return served.default if served else None
