"""The machine's side of a server: is it alive, who holds its ports, and how it ends without leftovers."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
from pathlib import Path

import psutil

from serving.endpoint import KEY_FILE, STATE_FILE, SUPERVISOR_FILE, Endpoint, RequestError, read_endpoint
from serving.inputs.spec import read_json
from serving.settings import PORTS, ServerError

GONE = 10.0  # seconds that a killed process may take to be gone
WORKERS = ("model_service_worker.py", "serving.asgi.worker")


def running(folder: Path) -> Endpoint | None:
    """The server that a state folder describes, alive or about to be started again; None where there is none."""
    try:
        endpoint = read_endpoint(folder)
    except RequestError:
        return None
    return endpoint if _java(endpoint) or supervisor(folder) else None


def supervisor(folder: Path) -> psutil.Process | None:
    """The process that keeps the server of a state folder up; None where nobody does, or we are it."""
    found = _supervision(folder)
    return None if found is None or _ours(folder) else _alive(*found)


def _supervision(folder: Path) -> tuple[int, float] | None:
    """Who was recorded as supervisor: process id, and when it began."""
    try:
        record = read_json(folder / SUPERVISOR_FILE)
        return int(record["pid"]), float(record["created"])
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _ours(folder: Path) -> bool:
    found = _supervision(folder)
    return found is not None and found[0] == os.getpid()


def stop(folder: Path, patience: float = 10.0) -> bool:
    """Stop the server of a state folder, from any process, with all its workers; True if one was alive.

    Asks with SIGTERM, waits `patience` seconds and then kills; with a patience of 0, at once, as no one else asks
    the server. Ends its supervisor first. Also clears what dead ones left behind.
    """
    kept = _end_supervisor(folder, patience)
    try:
        endpoint = read_endpoint(folder)
    except RequestError:
        return kept
    java = _java(endpoint)
    left = _session(endpoint)
    if java:
        with contextlib.suppress(psutil.NoSuchProcess):
            java.terminate()
        psutil.wait_procs([java], patience)
    for process in {*left, *_session(endpoint)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, GONE)
    for file in (KEY_FILE, STATE_FILE):
        (folder / file).unlink(missing_ok=True)
    shutil.rmtree(endpoint.scratch, ignore_errors=True)
    return java is not None or kept


def _end_supervisor(folder: Path, patience: float) -> bool:
    """End the supervisor of a state folder, which ends its server first; True if one was alive."""
    keeper = supervisor(folder)
    if keeper is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            keeper.terminate()
            _, alive = psutil.wait_procs([keeper], patience + GONE)
            for each in alive:
                each.kill()
            psutil.wait_procs(alive, GONE)
    if not _ours(folder):
        (folder / SUPERVISOR_FILE).unlink(missing_ok=True)
    return keeper is not None


def _java(endpoint: Endpoint) -> psutil.Process | None:
    """The server's Java."""
    return _alive(endpoint.pid, endpoint.created)


def _alive(pid: int, created: float) -> psutil.Process | None:
    """A process, unless it died and its id is another's now: it must have begun when we recorded it."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if same else None


def _session(endpoint: Endpoint) -> list[psutil.Process]:
    """Java, and the Python workers of its session, which outlive it for a moment."""
    java = _java(endpoint)
    found = [java] if java else []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            same = process.pid != endpoint.pid and os.getsid(process.pid) == endpoint.pid
            if same and any(worker in word for word in process.cmdline() for worker in WORKERS):
                found.append(process)
    return found


def free_ports() -> dict[str, int]:
    """A free loopback port for each that a server needs, for `settings.model_copy(update=free_ports())`."""
    with contextlib.ExitStack() as held:  # all held at once, so that they differ
        names = (*PORTS, "prometheus_port", "front_port")
        sockets = [held.enter_context(socket.socket()) for _ in names]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {port: each.getsockname()[1] for port, each in zip(names, sockets, strict=True)}


def check_port(host: str, port: int, setting: str) -> None:
    """Make sure that Java can listen on a port.

    Raises:
        ServerError: it cannot; names the port, its setting, and who holds it where the system tells.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java: closed connections may linger
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServerError(
                    f"port {port} ('server.{setting}') cannot be used: {error.strerror}"
                ) from None
            taken = f"port {port} is in use{_holder(port)}"
            raise ServerError(f"{taken}: stop that, or set another 'server.{setting}'") from None


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr[1:] == (port,) and each.pid:
                return f" by {psutil.Process(each.pid).name()} (pid {each.pid})"
    return ""
