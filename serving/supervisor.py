"""Keeps the project's server up: `python -m serving.supervisor FOLDER`, a process of its own.

It owns Java (or the second server's master), which on Linux ends with it, even where it is killed. It starts it with
the models of `models.json`, starts it again when it ends or answers nothing, and gives up where that does not help.
SIGTERM ends both.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil
from pydantic import BaseModel, Field, ValidationError

from serving.edge import edge
from serving.endpoint import SUPERVISOR_FILE, Endpoint, Kind, RequestError, read_endpoint
from serving.health import Health
from serving.inputs.spec import write_json
from serving.process import running, stop
from serving.server import Server
from serving.servers import SERVERS
from serving.settings import ServerError, ServerSettings

SETTINGS, LOG = "settings.json", "supervisor.log"
LIMIT, WINDOW = 10, 600.0  # so many restarts in so many seconds, then it gives up
LONGEST = 60.0  # seconds between two restarts, at most
END = 2.0  # seconds that a server which answers nothing has to end by itself

log = logging.getLogger("serving.supervisor")


class Ended(BaseException):
    """SIGTERM or SIGINT came."""


class Supervision(BaseModel, extra="forbid", frozen=True):
    """Who keeps a server up, and what happened: `supervisor.json` in its state folder."""

    pid: int = Field(description="The supervisor's process id.")
    created: float = Field(description="When that process began, in seconds since 1970.")
    restarts: int = Field(0, description="How often the server was started again.")
    reason: str | None = Field(None, description="Why, the last time.")


def planned(folder: Path) -> Plan | None:
    """How the supervisor of a state folder was told to run its server; None where that cannot be read."""
    try:
        return Plan.model_validate_json((folder / SETTINGS).read_bytes())
    except (OSError, ValidationError):
        return None


def supervision(folder: Path) -> Supervision | None:
    """Who keeps the server of a state folder up; None where nobody says so."""
    try:
        return Supervision.model_validate_json((folder / SUPERVISOR_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


class Plan(BaseModel, extra="forbid", frozen=True):
    """How a supervisor runs the server: `settings.json` in its state folder; what it serves is in `models.json`."""

    settings: ServerSettings = Field(description="The section `server` of `params.yaml`.")
    kind: Kind = Field("torchserve", description="Which server it is, a key of `SERVERS`.")
    model_api: bool = Field(False, description="Whether versions may be added and removed while it runs.")


class Supervisor:
    """One server and what keeps it up, in the process and the main thread that call `run`."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self._record = Supervision(pid=os.getpid(), created=psutil.Process().create_time())
        self._times: list[float] = []
        self._server: Server | None = None

    def run(self, progress: Callable[[str], None], ready: Callable[[], None]) -> NoReturn:
        """Start the server, call `ready`, and keep it up until SIGTERM.

        Raises:
            ServerError: it cannot start, or restarts do not help.
            Ended: SIGTERM or SIGINT came.
        """
        with self._alone(), self._recorded(), edge(self.folder, self.plan.settings, self.plan.kind):
            self._start(progress)
            ready()
            log.info("serving, pid %s", os.getpid())
            while True:
                self._restart(self._until_ill())

    def _start(self, progress: Callable[[str], None] | None = None) -> None:
        plan = self.plan
        server = SERVERS[plan.kind](None, plan.settings, self.folder, model_api=plan.model_api)
        server.start(progress=progress)
        self._server = server

    def _until_ill(self) -> str:
        """Wait until the server ends or answers nothing; gives which."""
        assert self._server is not None
        health = Health(self.folder, self.plan.settings)
        while (code := self._server.wait(health.period)) is None:
            try:
                wrong = health.look()
            except ServerError as error:
                log.warning("%s", error)
                continue
            except Exception:  # a look that fails must not end what serves
                log.exception("it could not be told whether the server answers")
                continue
            if wrong and self._server.wait(0) is None:
                return wrong
        return f"the server ended with exit code {code}; its logs are kept in {self.folder} as *.log.before"

    def _restart(self, reason: str) -> None:
        """Start the server again, at once the first time, and then after ever longer waits.

        Raises:
            ServerError: it does not come up.
        """
        began = time.monotonic()
        while True:
            self._times = [each for each in self._times if each > time.monotonic() - WINDOW]
            log.warning("%s", reason)
            if len(self._times) >= LIMIT:
                raise ServerError(
                    f"given up after {LIMIT} restarts in {WINDOW:.0f} s; the last time: {reason}"
                )
            time.sleep(min(LONGEST, 2.0 ** len(self._times) - 1))
            self._times.append(time.monotonic())
            self._note(reason)
            stop(self.folder, patience=END)
            try:
                self._start()
            except (ServerError, RequestError, OSError, psutil.Error) as error:
                reason = str(error)
                continue
            log.info("answers again after %.1f s", time.monotonic() - began)
            return

    def _note(self, reason: str) -> None:
        changed = {"restarts": self._record.restarts + 1, "reason": reason}
        self._record = self._record.model_copy(update=changed)
        with contextlib.suppress(OSError):  # a full disk
            self._write()

    def _write(self) -> None:
        fresh = self.folder / f".{SUPERVISOR_FILE}"
        write_json(fresh, self._record)
        fresh.replace(self.folder / SUPERVISOR_FILE)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "supervisor.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ServerError(f"another supervisor keeps {self.folder} up already") from None
            if live := running(self.folder):
                raise ServerError(f"a server runs from {self.folder} already (pid {live.pid}): stop it first")
            yield

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        """Be known as the folder's supervisor; leave nothing behind."""
        self._write()
        try:
            yield
        finally:
            stop(self.folder)
            (self.folder / SUPERVISOR_FILE).unlink(missing_ok=True)


def supervise(folder: Path, plan: Plan, progress: Callable[[str], None] | None = None) -> Endpoint:
    """Start a supervisor that outlives us, and return once its server answers.

    Raises:
        ServerError: the server cannot start; nothing is left running.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    write_json(folder / SETTINGS, plan)
    command = [sys.executable, "-m", "serving.supervisor", str(folder.resolve())]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        umask=0o077,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            told = json.loads(line)
            if "endpoint" in told:
                return Endpoint.model_validate(told["endpoint"])
            if "error" in told:
                raise ServerError(told["error"])
            if progress:
                progress(told["step"])
        raise ServerError(f"the supervisor ended with exit code {process.wait()}; see {folder / LOG}")
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        process.stdout.close()


def main() -> None:
    """Keep the server of the folder that is named up; tell each step of its start as a line of JSON."""
    folder = Path(sys.argv[1]).resolve()
    logging.raiseExceptions = False  # a full disk must not end us
    logging.basicConfig(
        handlers=[RotatingFileHandler(folder / LOG, maxBytes=1_000_000, backupCount=1)],
        format="%(asctime)s %(levelname)-7s %(message)s",
        level=logging.INFO,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)
    try:
        plan = Plan.model_validate_json((folder / SETTINGS).read_bytes())
        Supervisor(folder, plan).run(lambda step: _say(step=step), lambda: _ready(folder))
    except Ended:
        log.info("ended as asked")
    except (ServerError, OSError, ValidationError) as error:
        log.error("%s", error)
        _say(error=str(error))
        sys.exit(1)
    except BaseException:
        log.exception("the supervisor has a fault of its own")
        raise


def _ended(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise Ended


def _ready(folder: Path) -> None:
    """Tell where the server is, and let go of who started us."""
    _say(endpoint=read_endpoint(folder).model_dump(mode="json"))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _say(**told: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # who started us was killed
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
