"""The faults of the soak: each does harm to the server of a state folder, and undoes what does not end by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from serving.client import Client
from serving.endpoint import RequestError, read_endpoint, read_token
from serving.management import Management
from serving.settings import ServerError

HOLD = 5.0  # seconds that a lasting fault lasts
CROWD = 300  # connections of those who stall
Fault = Callable[[Path], None]


def workers(state: Path) -> list[int]:
    """Process ids of the workers that hold the model and run."""
    try:
        endpoint = read_endpoint(state)
        with Management(state, timeout=2) as management:
            found = management.version(endpoint.name, endpoint.version)
    except (ServerError, RequestError):
        return []
    ready = [each.pid for each in found.workers if each.status == "READY"] if found else []
    return [pid for pid in ready if _runs(pid)]


def _runs(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    return False


def _java(state: Path) -> psutil.Process:
    return psutil.Process(read_endpoint(state).pid)


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def nothing(_: Path) -> None:
    """No fault at all, to compare with."""
    time.sleep(HOLD)


def one_worker(number: signal.Signals) -> Fault:
    """A signal to one of the workers."""

    def fault(state: Path) -> None:
        _kill(workers(state)[0], number)

    return fault


def all_workers(state: Path) -> None:
    """Every worker is killed."""
    for pid in workers(state):
        _kill(pid, signal.SIGKILL)


def java(number: signal.Signals) -> Fault:
    """A signal to Java."""

    def fault(state: Path) -> None:
        _kill(_java(state).pid, number)

    return fault


def port_taken(state: Path) -> None:
    """Java is killed, and another process takes its port for a while."""
    address = httpx.URL(read_endpoint(state).url)
    process = _java(state)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        process.kill()
        with contextlib.suppress(psutil.Error):
            process.wait(10)
        taken.bind((address.host, address.port or 0))
        taken.listen()
        time.sleep(HOLD)


def out_of_memory(state: Path) -> None:
    """A worker may have no more memory than it has, and gets large bodies."""
    process = psutil.Process(workers(state)[0])
    process.rlimit(resource.RLIMIT_AS, (process.memory_info().vms, resource.RLIM_INFINITY))
    with Client.local(state, retries=0) as client:
        for _ in range(8):
            with contextlib.suppress(RequestError):
                client.predict(b"x" * 3_000_000)
    with contextlib.suppress(psutil.Error):
        process.rlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def disk_full(state: Path) -> None:
    """No file of Java and the workers can grow, while a worker is killed and starts again."""
    java = _java(state)
    for each in [java, *java.children()]:
        each.rlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    _kill(workers(state)[0], signal.SIGKILL)
    time.sleep(HOLD)
    for each in [java, *java.children()]:
        with contextlib.suppress(psutil.Error):
            each.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def stalled(sent: bytes, dribble: bytes, reset: bool) -> Fault:
    """Many clients that connect, send a part, and then a byte now and then, or nothing; some vanish with a reset."""

    def fault(state: Path) -> None:
        address = httpx.URL(read_endpoint(state).url)
        head = sent.replace(b"TOKEN", read_token(state).encode())
        with contextlib.ExitStack() as held:
            found = [
                held.enter_context(socket.create_connection((address.host, address.port or 0)))
                for _ in range(CROWD)
            ]
            for each in found:
                each.sendall(head)
            end = time.monotonic() + HOLD
            while time.monotonic() < end:
                for each in found:
                    each.sendall(dribble)
                time.sleep(0.5)
            if reset:
                for each in found:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return fault


def crowd(body: bytes, clients: int) -> Fault:
    """Many clients that send the same body as fast as they can, and do not care what becomes of it."""

    def fault(state: Path) -> None:
        end = time.monotonic() + HOLD

        def ask() -> None:
            with Client.local(state, retries=0) as client:
                while time.monotonic() < end:
                    with contextlib.suppress(RequestError):
                        client.predict(body)

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    return fault


HEAD = (
    b"POST /predictions/soak HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n"
    b"Content-Type: image/png\r\nContent-Length: 9999\r\n\r\n"
)
FAULTS: dict[str, Fault] = {
    "none": nothing,
    "worker killed": one_worker(signal.SIGKILL),
    "worker hung": one_worker(signal.SIGSTOP),
    "all workers killed": all_workers,
    "worker out of memory": out_of_memory,
    "disk full, worker killed": disk_full,
    "Java killed": java(signal.SIGKILL),
    "Java hung": java(signal.SIGSTOP),
    "Java killed, port taken": port_taken,
    "slow clients": stalled(HEAD, b"x", reset=False),
    "half-open connections": stalled(HEAD[:40], b"", reset=True),
    "bodies over the limit": crowd(b"x" * 5_000_000, 4),
    "overload": crowd(b"", 100),
}
LINUX_ONLY = ("worker out of memory", "disk full, worker killed")
if sys.platform != "linux":
    for name in LINUX_ONLY:
        del FAULTS[name]
