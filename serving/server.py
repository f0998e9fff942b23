"""Starts, watches and stops a local server, whichever it is (`serving.servers.SERVERS`).

A server is ready when it has answered a real request, never when `/ping` says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Self

import psutil

from serving.client import Client
from serving.endpoint import STATE_FILE, Endpoint, Kind, RequestError, read_token
from serving.inputs.spec import write_json
from serving.logs import read_log, why
from serving.process import check_port, free_ports, running, stop
from serving.settings import PORTS, ServerError, ServerSettings
from serving.state import Models, check_models, golden_requests, of_archive, read_models, write_models

__all__ = ["Server", "ServerError", "ServerSettings", "free_ports", "running", "stop"]

PREFIX = "fairlead-"


class Server(ABC):
    """One server, started here.

    Args:
        archive: the `.mar` to serve; None serves what `models.json` of the state folder names.
        settings: ports, workers, limits.
        folder: state folder; None takes a temporary one, which `stop` removes.
        owned: the server ends with the thread that started it, even where that is killed (on Linux).
            Otherwise it lives on, and `running(folder)` and `stop(folder)` reach it from any process.
        model_api: versions can be added and removed while it runs, by who holds the management token.
    """

    kind: ClassVar[Kind]
    process: ClassVar[str]  # what the first step of a start is called

    def __init__(
        self,
        archive: Path | None,
        settings: ServerSettings,
        folder: Path | None = None,
        owned: bool = True,
        model_api: bool = False,
    ) -> None:
        self.archive = archive.resolve() if archive else None
        self.settings = settings
        self.owned = owned
        self.model_api = model_api
        self._temporary = folder is None
        self.folder = (folder or Path(tempfile.mkdtemp(prefix=PREFIX))).resolve()
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        body: bytes | None = None,
        content_type: str = "application/octet-stream",
        progress: Callable[[str], None] | None = None,
    ) -> Endpoint:
        """Start, and return once every worker is up and every version has answered a real request.

        Args:
            body: the request; None takes the golden one of the bundle beside each archive.
            content_type: of `body`.
            progress: told each step.

        Raises:
            ServerError: no Java, a port taken, a broken archive or handler, or no answer within
                `start_timeout`. Nothing is left running, and the log stays in a folder that was given.
        """
        report = progress or (lambda _: None)
        deadline = time.monotonic() + self.settings.start_timeout
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        with self._locked():
            try:
                models = self._check()
                report(f"starting {self.process}")
                self._process, endpoint = self._launch(models)
                self._until_loaded(models, deadline, report)
                self._until_answered(models, endpoint, body, content_type)
            except BaseException:
                self.stop()
                raise
        report("the server answers")
        return endpoint

    def wait(self, seconds: float) -> int | None:
        """Java's exit code, as soon as it ends; None where it still runs after so many seconds."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End Java and every worker; remove tokens, temporary files and a temporary state folder."""
        stop(self.folder, patience=0 if self._temporary else 10)
        if self._process is not None:
            self._process.kill()  # does nothing unless we were interrupted before its record was written
            self._process.wait()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def client(self) -> Client:
        """A client of this server that tries once, as what checks or measures a server must see it fail."""
        return Client.local(self.folder, self.settings.response_timeout + 5.0, retries=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One start at a time in a folder, and none beside a live server."""
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ServerError(f"another start is under way in {self.folder}") from None
            if live := running(self.folder):
                raise ServerError(f"a server runs from {self.folder} already (pid {live.pid}): stop it first")
            stop(self.folder)  # clears what a dead one left
            yield

    def _check(self) -> Models:
        """What can be known before Java starts; gives what is to run, which `models.json` says from now on."""
        models = of_archive(self.archive) if self.archive else read_models(self.folder)
        check_models(models)
        for setting in PORTS:
            check_port(self.settings.host, getattr(self.settings, setting), setting)
        if self.settings.grpc_port:
            check_port(self.settings.host, self.settings.grpc_port, "grpc_port")
        write_models(self.folder, models)
        return models

    @abstractmethod
    def _launch(self, models: Models) -> tuple[subprocess.Popen[bytes], Endpoint]:
        """Start the process with these models, and record it in the state folder; it is not ready yet."""

    @abstractmethod
    def _until_loaded(self, models: Models, deadline: float, report: Callable[[str], None]) -> None:
        """Wait until every worker has every version.

        Raises:
            ServerError: one cannot have it, or not before `deadline` (monotonic seconds).
        """

    def _until_answered(
        self, models: Models, endpoint: Endpoint, body: bytes | None, content_type: str
    ) -> None:
        """Let every version answer, that which is the default first."""
        for name, version, archive in models.every():
            if body is None:
                body_of, kind, _ = golden_requests(archive)[0]
            else:
                body_of, kind = body, content_type
            address = f"{name}/{version}"
            try:
                token, timeout = read_token(self.folder), self.settings.response_timeout + 5.0
                with Client(endpoint.url, token, address, timeout, retries=0) as client:
                    client.predict(body_of, kind)
            except RequestError as error:
                raise ServerError(
                    f"the golden request was not answered by {address} ({error}){self._why()}"
                ) from None

    def _log(self) -> str:
        """Java's console, then what TorchServe and the workers logged."""
        return read_log(self.folder)

    def _why(self) -> str:
        """What was raised, and how the log ends."""
        return why(self._log())


def record(
    folder: Path, pid: int, settings: ServerSettings, models: Models, scratch: Path, kind: Kind
) -> Endpoint:
    """Say in the state folder what was started."""
    urls = [f"http://{settings.host}:{getattr(settings, port)}" for port in PORTS]
    name, served = next(iter(models.models.items()))
    endpoint = Endpoint(
        kind=kind,
        pid=pid,
        created=psutil.Process(pid).create_time(),
        name=name,
        version=served.default,
        url=urls[0],
        management_url=urls[1],
        metrics_url=urls[2],
        scratch=scratch,
    )
    write_json(folder / STATE_FILE, endpoint)
    return endpoint
