"""What breaks in production, done to a real TorchServe: the others are answered, and it recovers by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serving import supervisor
from serving.client import Client
from serving.endpoint import RequestError, read_endpoint, read_token
from serving.management import Management
from serving.process import stop
from serving.state import of_archive, write_models
from serving.supervisor import Plan, supervise
from tests.live import PNG, processes_of, same_answer, settings_of, until

pytestmark = pytest.mark.slow
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="limits of another process can be set on Linux only"
)
LIMIT = 100_000
# The real handler, and bodies that do harm before it sees them.
PLANTED = """
import resource, time
from real_handler import handle as _handle

def handle(batch, context):
    bodies = [bytes(item.get("body") or b"") for item in batch or []]
    if b"sleep" in bodies:
        time.sleep(600)
    if b"memory" in bodies:
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2**33, before[1]))
        try:
            bytearray(2**34)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    return _handle(batch, context)
"""


@pytest.fixture(scope="module")
def state(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder whose server of two workers is kept up."""
    planted = stored.with_name("planted") / stored.name
    planted.parent.mkdir()
    (planted.parent / "bundle").symlink_to(stored.parent / "bundle")
    with zipfile.ZipFile(stored) as good, zipfile.ZipFile(planted, "w") as bad:
        for name in good.namelist():
            bad.writestr("real_handler.py" if name == "handler.py" else name, good.read(name))
        bad.writestr("handler.py", PLANTED)
    folder = tmp_path_factory.mktemp("state")
    write_models(folder, of_archive(planted))
    settings = settings_of(workers=2, response_timeout=2, max_request_bytes=LIMIT)
    try:
        supervise(folder, Plan(settings=settings))
        yield folder
    finally:
        stop(folder)


@contextlib.contextmanager
def others(state: Path, bundle: Path) -> Iterator[None]:
    """Three clients that ask all the time: with their retries, not one of their requests may fail."""
    done = threading.Event()
    answers: list[dict] = []
    failures: list[RequestError] = []

    def ask() -> None:
        with Client.local(state, deadline=60) as client:
            while not done.is_set():
                try:
                    answers.append(client.predict(PNG))
                except RequestError as error:
                    failures.append(error)
                time.sleep(0.02)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for each in threads:
        each.start()
    try:
        until(lambda: len(answers) > 10)
        yield
        before = len(answers)
        until(lambda: len(answers) > before + 10)
    finally:
        done.set()
        for each in threads:
            each.join()
    assert not failures
    for answer in answers:
        same_answer(answer, bundle)


def workers_of(state: Path) -> list[int]:
    """The workers that hold the model, as TorchServe sees them."""
    endpoint = read_endpoint(state)
    try:
        with Management(state) as management:
            found = management.version(endpoint.name, endpoint.version)
    except (ValueError, RequestError):
        return []
    return [worker.pid for worker in found.workers if worker.status == "READY"] if found else []


def two(state: Path, without: int = 0) -> list[int]:
    """Wait for both workers, and for one of them to be gone."""
    until(lambda: len(set(workers_of(state)) - {without, -1}) == 2)
    return workers_of(state)


# --- workers


def test_a_killed_worker_is_replaced(state: Path, bundle: Path) -> None:
    ended = two(state)[0]
    with others(state, bundle):
        os.kill(ended, signal.SIGKILL)
        two(state, ended)
    assert not psutil.pid_exists(ended)


def test_an_answer_later_than_the_limit(state: Path, bundle: Path) -> None:
    before = two(state)
    with others(state, bundle), Client.local(state, retries=0) as client:
        with pytest.raises(RequestError, match=r"500: .*Worker died"):
            client.predict(b"sleep")
        assert two(state) != before


def test_memory_that_there_is_not(state: Path, bundle: Path) -> None:
    """The request fails, and the worker goes on."""
    before = two(state)
    with others(state, bundle), Client.local(state, retries=0) as client:
        with pytest.raises(RequestError) as failed:
            client.predict(b"memory")
        assert failed.value.status in (503, 507)
    assert workers_of(state) == before


# --- clients


def _connections(state: Path) -> int:
    port = httpx.URL(read_endpoint(state).url).port
    java = psutil.Process(read_endpoint(state).pid)
    return sum(each.laddr.port == port for each in java.net_connections("tcp") if each.raddr)


@pytest.mark.parametrize("sent", ["nothing", "half a header", "half a body", "all, and reads nothing"])
def test_clients_that_stall_hold_up_nobody(state: Path, bundle: Path, sent: str) -> None:
    """Java keeps as many as it has file descriptors for; time limits are the front's."""
    address = httpx.URL(read_endpoint(state).url)
    head = f"POST /predictions/digits HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {read_token(state)}\r\n"
    whole = f"{head}Content-Type: image/png\r\nContent-Length: {len(PNG)}\r\n\r\n".encode() + PNG
    part = {"nothing": b"", "half a header": whole[:40], "half a body": whole[:-100]}.get(sent, whole)
    with contextlib.ExitStack() as held:
        stalled = [
            held.enter_context(socket.create_connection((address.host, address.port or 0)))
            for _ in range(150)
        ]
        with others(state, bundle):
            for each in stalled:
                each.sendall(part)
            if sent == "half a body":
                for at in range(len(whole) - 100, len(whole) - 95):  # and dribbles on
                    for each in stalled:
                        each.sendall(whole[at : at + 1])
            assert _connections(state) >= 150
    until(lambda: _connections(state) < 10)


def test_after_a_body_over_the_limit_the_connection_serves_on(state: Path, bundle: Path) -> None:
    endpoint = read_endpoint(state)
    headers = {"Authorization": f"Bearer {read_token(state)}"}
    limits = httpx.Limits(max_connections=1)
    with (
        others(state, bundle),
        httpx.Client(base_url=endpoint.url, headers=headers, trust_env=False, limits=limits) as client,
    ):
        ours = []
        for body, status in ((b"x" * (LIMIT + 1), 413), (PNG, 200)):
            answer = client.post("/predictions/digits", content=body)
            assert answer.status_code == status
            ours.append(answer.extensions["network_stream"].get_extra_info("client_addr"))
    assert ours[0] == ours[1]
    same_answer(answer.json(), bundle)


# --- the machine


@linux
def test_a_full_disk(state: Path, bundle: Path) -> None:
    """No file can grow: what is logged is lost, and nothing else."""
    processes = processes_of(read_endpoint(state))
    log = state / "server.log"
    for each in processes:
        each.rlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    size, ended = log.stat().st_size, two(state)[0]
    with others(state, bundle):
        os.kill(ended, signal.SIGKILL)  # the next one says in the log that it loads
        two(state, ended)
        assert log.stat().st_size == size
    for each in processes_of(read_endpoint(state)):
        each.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _restarted(state: Path, count: int) -> bool:
    return (state / supervisor.LOG).read_text().count("answers again") == count


def test_java_is_killed_and_its_port_is_taken(state: Path, bundle: Path) -> None:
    """Whoever asks meanwhile is answered by the next Java, which has other tokens."""
    before, token = read_endpoint(state), read_token(state)
    processes = processes_of(before)
    address = httpx.URL(before.url)
    with others(state, bundle):
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            os.kill(before.pid, signal.SIGKILL)
            psutil.Process(before.pid).wait(10)
            taken.bind((address.host, address.port or 0))
            taken.listen()
            log = state / supervisor.LOG
            until(lambda: f"port {address.port} is in use" in log.read_text())
        until(lambda: _restarted(state, 1))
    after = read_endpoint(state)
    assert after.pid != before.pid
    assert after.url == before.url
    assert read_token(state) != token
    assert not [each for each in processes if each.is_running()]
    assert not before.scratch.exists()
    assert "the server ended with exit code -9" in (state / supervisor.LOG).read_text()


def test_java_hangs(state: Path, bundle: Path) -> None:
    before = read_endpoint(state)
    processes = processes_of(before)
    with others(state, bundle):
        os.kill(before.pid, signal.SIGSTOP)
        until(lambda: _restarted(state, 2))
    assert read_endpoint(state).pid != before.pid
    assert not [each for each in processes if each.is_running()]
    assert "the server said nothing" in (state / supervisor.LOG).read_text()
