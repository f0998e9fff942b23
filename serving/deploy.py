"""Puts one version of a model in another's place while clients ask, without losing a request.

The order: register the new version beside the old, wait for every worker, let it answer its golden requests, make it
the default, wait until the old has answered what it was given, and only then take the old away. `models.json` says
what must run, and changes at the moment of the switch: whatever is cut short before leaves the old version serving,
whatever after the new, and `Rollout.repair` takes away what is left over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from serving.config import LOG, stock
from serving.endpoint import STATE_FILE, Endpoint, RequestError
from serving.logs import RAISED, plain, why
from serving.management import Registered
from serving.probe import Broken, check_golden
from serving.process import running
from serving.servers import management
from serving.settings import ServerError, ServerSettings
from serving.state import check_archive, read_models, replace_file, write_models

LOCK = "change.lock"
CAUSE = 3.0  # seconds in which a worker that ended may still say why
Report = Callable[[str], None]


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """One change of what is served at a time in a state folder; a killed holder lets go of it.

    Raises:
        ServerError: another is under way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise ServerError(
                f"another change of what is served is under way (pid {lock.read() or 'unknown'}): wait for its end, or "
                "interrupt it"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class Rollout:
    """Changes of what one running server serves; use it inside `changing`.

    Args:
        folder: the server's state folder.
        settings: workers, batching and limits of what is added.
        tolerance: how far a golden answer may lie from the expected one.
        report: told each step.

    Raises:
        ServerError: no server runs there.
    """

    def __init__(self, folder: Path, settings: ServerSettings, tolerance: float, report: Report) -> None:
        self.folder = folder
        self.settings = settings
        self.tolerance = tolerance
        self.report = report
        try:
            self.management = management(folder)
        except RequestError as error:
            raise ServerError(f"{error}; 'fairlead serve up' starts the server") from None

    def __enter__(self) -> Rollout:
        return self

    def __exit__(self, *_: object) -> None:
        self.management.close()

    def replace(
        self, name: str, version: str, archive: Path, switched: Callable[[str | None], None] | None = None
    ) -> str | None:
        """Let `version` take the place of the default of `name`; gives what was the default before.

        Args:
            name: the model, one that runs or a new one.
            version: the new version.
            archive: its `.mar` in the store, beside its bundle and receipt.
            switched: called with the version before, once the new one answers and before the old is drained.

        Raises:
            ServerError: the new version is not up to it, and is gone again; the old serves as before.
        """
        models = read_models(self.folder)
        before = models.models[name].default if name in models.models else None
        self.add(name, version, archive)
        self.switch(name, version, archive)
        if switched:
            switched(before)
        if before is not None and before != version:
            try:
                self.remove(name, before)
            except ServerError as error:
                self.report(f"version {before} stays for now: {error}")
        return before

    def add(self, name: str, version: str, archive: Path) -> None:
        """Run a version beside the others of its model, and let it answer its golden requests.

        `models.json` does not name it yet: until it does, a restart or a repair takes it away.

        Raises:
            ServerError: it does not come up or answers otherwise than expected; it is gone again.
        """
        check_archive(name, version, archive)
        endpoint = self._endpoint()
        offset = _size(self.folder / LOG)
        try:
            if self.management.version(name, version) is None:
                self.report(f"loading version {version} beside what serves")
                self.management.register(stock(endpoint.scratch, name, version, archive), self.settings)
            self._until_ready(name, version)
            timeout = self.settings.response_timeout + 5.0
            try:
                count = check_golden(
                    self.folder, endpoint.url, name, version, archive, self.tolerance, timeout
                )
            except RequestError as error:
                raise ServerError(str(error)) from None
        except (ServerError, OSError) as error:
            said = self._said(offset) if isinstance(error, Broken) else ""
            self._undo(name, version)
            raise ServerError(f"version {version} of {name} is not served: {error}{said}") from None
        except BaseException:
            self._undo(name, version)
            raise
        self.report(f"version {version} answers {count} golden requests as certified")

    def switch(self, name: str, version: str, archive: Path) -> None:
        """Make a version that runs the default of its model, and the only one that must run besides a canary's."""
        models = read_models(self.folder)
        before = models.models.get(name)
        fresh = models.serving(name, version, archive)
        if before is not None and before.default != version:
            fresh = fresh.without(name, before.default)
        try:
            write_models(self.folder, fresh)
            self.management.set_default(name, version)
        except BaseException:  # the server may have done it, so the new version is drained before it goes
            with contextlib.suppress(ServerError):
                write_models(self.folder, models)
                self.repair()
            raise
        endpoint = self._endpoint()
        if endpoint.name == name:
            with contextlib.suppress(ServerError):
                replace_file(self.folder / STATE_FILE, endpoint.model_copy(update={"version": version}))
        self.report(f"version {version} is what serves now")

    def remove(self, name: str, version: str) -> None:
        """Take a version away once it has answered all that it was given.

        Raises:
            ServerError: it is still asked by its own address; it stays, and the next change tries again.
        """
        self.report(f"waiting for version {version} to answer what it was given")
        self._drain(name, version)
        if self.management.version(name, version) is not None:
            self.management.unregister(name, version)
        self._unstock(name, version)
        self.report(f"version {version} is gone")

    def repair(self) -> None:
        """Bring the server in line with `models.json`: what it lacks is added, what a killed change left goes.

        Raises:
            ServerError: the server does not answer.
        """
        models = read_models(self.folder)
        for name in self.management.names() if models.models else ():
            served = models.models.get(name)
            if served is None:
                default = self.management.default(name)
                extra = sorted(self.management.versions(name), key=lambda version: version == default)
            else:
                known = self.management.versions(name)
                for version in served.versions.keys() - known.keys():
                    self.add(name, version, served.versions[version])
                if self.management.default(name) != served.default:
                    self.management.set_default(name, served.default)
                extra = [each for each in known if each not in served.versions]
            for version in extra:
                self.report(f"version {version} of {name} was left by a change that did not end")
                self.remove(name, version)

    def _until_ready(self, name: str, version: str) -> None:
        """Wait for every worker of a version; one whose process ends meanwhile will never be ready."""
        deadline = time.monotonic() + self.settings.start_timeout
        shown, seen = -1, set[int]()
        while True:
            found = self.management.version(name, version)
            if found is None:
                raise ServerError("the server lost it (did it start again?)")
            wanted = found.min_workers or self.settings.workers
            if found.ready >= wanted:
                return
            seen |= {worker.pid for worker in found.workers if worker.pid > 0}
            if dead := [pid for pid in seen if not psutil.pid_exists(pid)]:
                raise Broken(f"its worker ended while it was loading (pid {dead[0]})")
            if time.monotonic() > deadline:
                limit = self.settings.start_timeout
                raise Broken(f"{found.ready} of {wanted} workers ready after {limit} s")
            if found.ready != shown:
                self.report(f"{found.ready} of {wanted} workers ready")
                shown = found.ready
            time.sleep(0.1)

    def _drain(self, name: str, version: str) -> None:
        """Wait until a version's queue is empty, and has been for as long as a worker may take for a batch.

        The server tells what waits, not what a worker holds. That is answered within `response_timeout`: a worker
        that takes longer is ended, and its batch with it, whether we wait or not.
        """
        quiet = self.settings.response_timeout + 1.0
        deadline = time.monotonic() + 30 + 3 * quiet
        empty_since = time.monotonic()
        while (found := self.management.version(name, version)) is not None:
            now = time.monotonic()
            if found.pending:
                empty_since = now
            if now - empty_since >= quiet:
                return
            if now > deadline:
                if _stranded(found):
                    return
                raise ServerError(
                    f"version {version} of {name} is still asked at /predictions/{name}/{version}, so it stays beside "
                    "the default; 'fairlead serve up' takes it away once that ends"
                )
            time.sleep(0.1)

    def _undo(self, name: str, version: str) -> None:
        """Take a version away at once that never was the default; what cannot be done is left to `repair`."""
        served = read_models(self.folder).models.get(name)
        if served is not None and version in served.versions:
            return
        with contextlib.suppress(ServerError):
            self.management.unregister(name, version)
        with contextlib.suppress(ServerError):
            self._unstock(name, version)

    def _unstock(self, name: str, version: str) -> None:
        (self._endpoint().scratch / "store" / f"{name}-{version}.mar").unlink(missing_ok=True)

    def _endpoint(self) -> Endpoint:
        endpoint = running(self.folder)
        if endpoint is None:
            raise ServerError("no server is running; 'fairlead serve up' starts it")
        return endpoint

    def _said(self, offset: int) -> str:
        """What the server logged since then; the cause may follow its symptom by a while."""
        deadline = time.monotonic() + CAUSE
        while not RAISED.search(said := _since(self.folder / LOG, offset)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return why(said) if said.strip() else ""


def _stranded(found: Registered) -> bool:
    """True where no worker is left to answer what waits."""
    return found.ready == 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _since(path: Path, offset: int) -> str:
    """What was added to a log that may have been rotated, as one reads it."""
    try:
        with path.open("rb") as file:
            file.seek(offset if offset <= _size(path) else 0)
            added = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(map(plain, added.splitlines()))
