"""Starts, watches and stops the local TorchServe.

It runs `java` itself, because TorchServe's launcher answers 0 when Java crashes and orphans it on SIGTERM.
A server is ready when it has answered a real request, never when `/ping` says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from serving.client import STATE_FILE, Client, Endpoint, Kind, RequestError, read_token
from serving.config import (
    CONSOLE,
    LOG,
    PORTS,
    ServerError,
    ServerSettings,
    command_line,
    environment,
    write_config,
)
from serving.inputs.spec import write_json
from serving.logs import read_log, why
from serving.management import Management, ManagementError
from serving.process import check_port, free_ports, running, stop
from serving.state import Models, check_models, golden_requests, of_archive, read_models, write_models

__all__ = ["ServerError", "ServerSettings", "TorchServe", "free_ports", "running", "stop"]

PREFIX = "fairlead-"
FAILURES = ("Load model failed", "Failed to load model", "Backend worker error")


class TorchServe:
    """One TorchServe, started here.

    Args:
        archive: the `.mar` to serve; None serves what `models.json` of the state folder names.
        settings: ports, workers, limits.
        folder: state folder; None takes a temporary one, which `stop` removes.
        owned: the server ends with the thread that started it, even where that is killed (on Linux).
            Otherwise it lives on, and `running(folder)` and `stop(folder)` reach it from any process.
        model_api: versions can be added and removed while it runs, by who holds the management token.
    """

    kind: Kind = "torchserve"

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
                report(f"starting {'Java' if self.kind == 'torchserve' else 'the workers'}")
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

    def __enter__(self) -> TorchServe:
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

    def _launch(self, models: Models) -> tuple[subprocess.Popen[bytes], Endpoint]:
        return launch(self.folder, self.settings, models, self.owned, self.model_api)

    def _until_loaded(self, models: Models, deadline: float, report: Callable[[str], None]) -> None:
        """Wait for every worker of every version, and tell a failure from slowness by what the log says."""
        wanted, shown = self.settings.workers * len(models.every()), -1
        with Management(self.folder, timeout=2) as management:
            while (ready := _ready_workers(management, models)) < wanted:
                assert self._process is not None
                if (code := self._process.poll()) is not None:
                    raise ServerError(f"Java ended with exit code {code}{self._why()}")
                if any(sign in self._log() for sign in FAILURES):
                    time.sleep(1.5)  # the cause may follow its symptom
                    named = ", ".join(str(path) for _, _, path in models.every())
                    raise ServerError(f"the server cannot load {named}{self._why()}")
                if time.monotonic() > deadline:
                    limit = self.settings.start_timeout
                    raise ServerError(f"{ready} workers ready after {limit} s{self._why()}")
                if ready != shown:
                    report(f"loading the model: {ready} of {wanted} workers ready")
                    shown = ready
                time.sleep(0.1)

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


def launch(
    folder: Path, settings: ServerSettings, models: Models, owned: bool, model_api: bool = False
) -> tuple[subprocess.Popen[bytes], Endpoint]:
    """Start Java with `models` in a state folder, and record it there; it is not ready yet."""
    scratch = Path(tempfile.mkdtemp(prefix=PREFIX))  # short, as a worker's socket path must be
    process = None
    for name in (CONSOLE, LOG):  # what a failed run said must not be taken for what this one says
        with contextlib.suppress(FileNotFoundError):
            (folder / name).replace(folder / f"{name}.before")
    try:
        write_config(folder, scratch, models, settings, model_api)
        with (folder / CONSOLE).open("wb") as console:
            process = subprocess.Popen(
                command_line(folder, scratch, settings, owned),
                cwd=folder,  # where TorchServe writes its tokens
                env=environment(folder, scratch),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                umask=0o077,
            )
        return process, record(folder, process.pid, settings, models, scratch)
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def record(
    folder: Path, pid: int, settings: ServerSettings, models: Models, scratch: Path, kind: Kind = "torchserve"
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


def _ready_workers(management: Management, models: Models) -> int:
    """How many workers hold their model; 0 while the server cannot be asked yet."""
    try:
        return sum(
            min(known[version].ready, known[version].min_workers)
            for name, served in models.models.items()
            if (known := management.versions(name))
            for version in served.versions
            if version in known
        )
    except ManagementError:
        return 0
