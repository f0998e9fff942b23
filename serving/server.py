"""Starts, watches and stops the local TorchServe: the only file that talks to its management side.

It runs `java` itself, because TorchServe's launcher answers 0 when Java crashes and orphans it on SIGTERM.
A server is ready when it has answered a real request, never when `/ping` says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

from serving.archive import ArchiveError, read_manifest
from serving.client import STATE_FILE, Client, Endpoint, RequestError, read_token
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
from serving.process import check_port, free_ports, running, stop

__all__ = ["ServerError", "ServerSettings", "TorchServe", "free_ports", "running", "stop"]

PREFIX = "fairlead-"
FAILURES = ("Load model failed", "Failed to load model", "Backend worker error")
NOISE = ("sun.reflect.Reflection", "nvidia-smi not available")
# The line that ends a traceback, Python's or Java's. All of them are told, as TorchServe lets a handler's
# ImportError end in a misleading one of its own.
RAISED = re.compile(r"(?:MODEL_LOG - |^)(?!model_name|WARNING)((?:\w+\.)*\w+: .+)", re.MULTILINE)


class TorchServe:
    """One TorchServe with one model, started here.

    Args:
        archive: the `.mar` to serve.
        settings: ports, workers, limits.
        folder: state folder; None takes a temporary one, which `stop` removes.
        owned: the server ends with the thread that started it, even where that is killed (on Linux).
            Otherwise it lives on, and `running(folder)` and `stop(folder)` reach it from any process.
    """

    def __init__(
        self, archive: Path, settings: ServerSettings, folder: Path | None = None, owned: bool = True
    ) -> None:
        self.archive = archive.resolve()
        self.settings = settings
        self.owned = owned
        self._temporary = folder is None
        self.folder = (folder or Path(tempfile.mkdtemp(prefix=PREFIX))).resolve()
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        body: bytes,
        content_type: str = "application/octet-stream",
        progress: Callable[[str], None] | None = None,
    ) -> Endpoint:
        """Start, and return once every worker is up and `body`, a real request, was answered.

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
                model = self._check()
                report("starting Java")
                endpoint = self._launch(model)
                self._until_loaded(endpoint, deadline, report)
                self._until_answered(body, content_type)
            except BaseException:
                self.stop()
                raise
        report("the server answers")
        return endpoint

    def stop(self) -> None:
        """End Java and every worker; remove tokens, temporary files and a temporary state folder."""
        stop(self.folder, patience=0 if self._temporary else 10)
        if self._process is not None:
            self._process.kill()  # does nothing unless we were interrupted before its record was written
            self._process.wait()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def client(self) -> Client:
        """A client of this server, with its token."""
        return Client.local(self.folder, self.settings.response_timeout + 5.0)

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

    def _check(self) -> tuple[str, str]:
        """What can be known before Java starts; gives the model's name and version."""
        if self.archive.suffix != ".mar":
            raise ServerError(f"an archive's name must end in '.mar'; found {self.archive}")
        try:
            model = read_manifest(self.archive)
        except ArchiveError as error:
            raise ServerError(str(error)) from None
        for setting in PORTS:
            check_port(self.settings.host, getattr(self.settings, setting), setting)
        if self.settings.grpc_port:
            check_port(self.settings.host, self.settings.grpc_port, "grpc_port")
        return model

    def _launch(self, model: tuple[str, str]) -> Endpoint:
        scratch = Path(tempfile.mkdtemp(prefix=PREFIX))  # short, as a worker's socket path must be
        try:
            write_config(self.folder, scratch, self.archive, model, self.settings)
            with (self.folder / CONSOLE).open("wb") as console:
                self._process = subprocess.Popen(
                    command_line(self.folder, scratch, self.settings, self.owned),
                    cwd=self.folder,  # where TorchServe writes its tokens
                    env=environment(self.folder, scratch),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                    umask=0o077,
                )
            return self._record(model, scratch)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    def _record(self, model: tuple[str, str], scratch: Path) -> Endpoint:
        assert self._process is not None
        urls = [f"http://{self.settings.host}:{getattr(self.settings, port)}" for port in PORTS]
        endpoint = Endpoint(
            pid=self._process.pid,
            created=psutil.Process(self._process.pid).create_time(),
            name=model[0],
            version=model[1],
            url=urls[0],
            management_url=urls[1],
            metrics_url=urls[2],
            scratch=scratch,
        )
        write_json(self.folder / STATE_FILE, endpoint)
        return endpoint

    def _until_loaded(self, endpoint: Endpoint, deadline: float, report: Callable[[str], None]) -> None:
        """Wait for every worker, and tell a failure from slowness by what the log says."""
        shown = -1
        with httpx.Client(timeout=2, trust_env=False) as asking:
            while (ready := _ready_workers(asking, endpoint, self.folder)) < self.settings.workers:
                assert self._process is not None
                if (code := self._process.poll()) is not None:
                    raise ServerError(f"Java ended with exit code {code}{self._why()}")
                if any(sign in self._log() for sign in FAILURES):
                    time.sleep(0.5)  # the cause may follow its symptom
                    raise ServerError(f"the server cannot load {self.archive}{self._why()}")
                if time.monotonic() > deadline:
                    limit = self.settings.start_timeout
                    raise ServerError(f"{ready} workers ready after {limit} s{self._why()}")
                if ready != shown:
                    report(f"loading the model: {ready} of {self.settings.workers} workers ready")
                    shown = ready
                time.sleep(0.1)

    def _until_answered(self, body: bytes, content_type: str) -> None:
        try:
            with self.client() as client:
                client.predict(body, content_type)
        except RequestError as error:
            raise ServerError(f"the golden request was not answered ({error}){self._why()}") from None

    def _log(self) -> str:
        """Java's console, then what TorchServe and the workers logged."""
        paths = (self.folder / name for name in (CONSOLE, LOG))
        return "\n".join(path.read_text(errors="replace") for path in paths if path.exists())

    def _why(self) -> str:
        """What was raised, and how the log ends."""
        log = self._log()
        raised = "".join(f"\n  {line}" for line in dict.fromkeys(RAISED.findall(log)))
        lines = [line for line in log.splitlines() if not any(noise in line for noise in NOISE)]
        return "\n".join([f":{raised}" if raised else "", "the log ends:", *lines[-12:]])


def _ready_workers(asking: httpx.Client, endpoint: Endpoint, folder: Path) -> int:
    """How many workers hold the model; 0 while the server cannot be asked yet."""
    try:
        headers = {"Authorization": f"Bearer {read_token(folder, 'management')}"}
        address = f"{endpoint.management_url}/models/{endpoint.name}"
        described = asking.get(address, headers=headers)
        described.raise_for_status()
        return sum(worker["status"] == "READY" for model in described.json() for worker in model["workers"])
    except (httpx.HTTPError, RequestError):
        return 0
