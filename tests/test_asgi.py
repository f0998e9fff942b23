"""The second server alone: batches without a delay, limits, workers that die, models that change while it runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from serving.archive import build_archive
from serving.asgi.batching import Batcher
from serving.asgi.body import Refused, body_of
from serving.asgi.keys import Keys, write_keys
from serving.asgi.management import OnnxManagement
from serving.asgi.run import WORKERS, read_table
from serving.asgi.server import OnnxServer
from serving.config import stock
from serving.endpoint import Endpoint, read_token
from serving.inputs.spec import read_spec, write_json
from serving.management import ManagementError
from serving.openapi import document
from serving.process import running
from serving.worker.messages import Reply, Request
from tests.live import PNG, VERSION, closed, same_answer, settings_of

slow = pytest.mark.slow  # starts a real server
PATIENCE = 15.0  # seconds in which what must happen has happened, on a busy machine too


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


# --- batches


class Model:
    """A model whose forward passes end when they are let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Semaphore(0)

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        self.batches.append([request.id for request in requests])
        self.go.acquire()
        if any(request.body == b"broken" for request in requests):
            raise RuntimeError("broken")
        return [Reply(200, request.id.encode()) for request in requests]


def batcher(model: Model, most: int = 4, room: int = 6, seconds: float = 30.0) -> Batcher:
    return Batcher(model, most, room, seconds, lambda: model.go.release(1))


async def _ask(model: Model, asked: Batcher, count: int) -> list[asyncio.Task[Reply]]:
    """One request that is being answered, and the others waiting."""
    tasks = [asyncio.create_task(asked.ask(Request(str(at), b""))) for at in range(count)]
    while not model.batches:
        await asyncio.sleep(0.01)
    return tasks


def test_a_lone_request_waits_for_no_other_and_those_that_came_meanwhile_share_a_batch() -> None:
    async def run() -> None:
        model = Model()
        asked = batcher(model)
        lone = await _ask(model, asked, 1)
        assert model.batches == [["0"]]
        more = [asyncio.create_task(asked.ask(Request(name, b""))) for name in "abcdef"]
        await asyncio.sleep(0)
        model.go.release(3)
        replies = [reply.body.decode() for reply in await asyncio.gather(*lone, *more)]
        assert replies == ["0", *"abcdef"]
        assert model.batches == [["0"], [*"abcd"], [*"ef"]]
        await asked.drained()

    asyncio.run(run())


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    async def run() -> None:
        model = Model()
        asked = batcher(model, room=2)
        await _ask(model, asked, 1)
        waiting = [asyncio.create_task(asked.ask(Request(name, b""))) for name in "ab"]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="2 requests wait") as refused:
            await asked.ask(Request("c", b""))
        assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})
        model.go.release(2)
        assert [reply.status for reply in await asyncio.gather(*waiting)] == [200, 200]

    asyncio.run(run())


def test_a_model_that_hangs_gives_504_and_is_told_once() -> None:
    async def run() -> None:
        model, told = Model(), []
        asked = Batcher(model, 4, 6, 0.2, lambda: told.append(1))
        tasks = await _ask(model, asked, 3)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(each, "status", None) for each in ended] == [504] * 3
        await asyncio.sleep(0.1)
        assert told == [1]
        model.go.release(9)

    asyncio.run(run())


def test_an_exception_is_an_answer_and_the_next_batch_goes_on() -> None:
    async def run() -> None:
        model = Model()
        model.go.release(9)
        asked = batcher(model)
        assert (await asked.ask(Request("a", b"broken"))).status == 500
        assert (await asked.ask(Request("b", b""))).status == 200

    asyncio.run(run())


# --- forms and tokens


def test_a_form_is_taken_apart_to_the_byte_or_refused() -> None:
    odd = b"\r\n--other\r\n\r\n-x--\r\n--\n\r"
    head = b'--x\r\nContent-Disposition: form-data; filename="name=b.png"; name="a; b"\r\n\r\n'
    kind = 'Multipart/Form-Data; charset=utf-8; boundary="x"'
    assert body_of(head + odd + b"\r\n--x--\r\n", kind) == odd
    assert body_of(b"raw", "application/x-www-form-urlencoded") == b"raw"
    for bad, said in (
        (b"", "not whole"), (b"--x--", "not whole"), (head, "not whole"), (head + b"1\r\n--x", "not whole"),
        (b"junk" + head + b"\r\n--x--", "not whole"), (b"--x\r\nContent-Type: a/b\r\n\r\n1\r\n--x--", "no name"),
        (b"--x\r\n\r\n--x--", "no name"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=said):
            body_of(bad, kind)
    with pytest.raises(Refused, match="boundary"):
        body_of(b"", "multipart/form-data")


def test_tokens_end_with_their_file_and_their_time(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "key_file.json")
    assert not keys.fits(b"")
    assert not keys.fits(b"Bearer ")
    write_keys(tmp_path, 5)
    first = f"Bearer {read_token(tmp_path)}".encode()
    assert keys.fits(first)
    write_keys(tmp_path, 5)
    assert not keys.fits(first)
    assert keys.fits(f"Bearer {read_token(tmp_path)}".encode())
    write_keys(tmp_path, 0)
    assert not keys.fits(f"Bearer {read_token(tmp_path)}".encode())
    (tmp_path / "key_file.json").write_text("{}")
    assert not keys.fits(b"")


# --- a live server


@pytest.fixture(scope="module")
def server(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnnxServer]:
    settings = settings_of(workers=2, response_timeout=2, client_timeout=1, max_request_bytes=2**20)
    with OnnxServer(archive, settings, tmp_path_factory.mktemp("state")) as started:
        started.start(PNG, "image/png")
        yield started


@pytest.fixture
def endpoint(server: OnnxServer) -> Endpoint:
    found = running(server.folder)
    assert found
    return found


@pytest.fixture
def raw(server: OnnxServer, endpoint: Endpoint) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {read_token(server.folder)}"}
    with httpx.Client(base_url=endpoint.url, headers=headers, trust_env=False) as client:
        yield client


def workers_of(endpoint: Endpoint) -> set[int]:
    return {int(pid) for pid in read_table(endpoint.scratch / WORKERS)}


def connect(endpoint: Endpoint, server: OnnxServer, head: str) -> socket.socket:
    """A connection that has sent the beginning of a request."""
    address = httpx.URL(endpoint.url)
    connection = socket.create_connection((address.host, address.port or 0), timeout=PATIENCE)
    token = read_token(server.folder)
    lines = ["POST /predictions/digits HTTP/1.1", "Host: a", f"Authorization: Bearer {token}", head]
    connection.sendall("\r\n".join(lines).encode())
    return connection


@slow
def test_the_metrics_port_has_no_predictions_and_the_document_is_served(
    endpoint: Endpoint, raw: httpx.Client, bundle: Path
) -> None:
    assert httpx.get(f"{endpoint.metrics_url}/ping").is_success
    assert httpx.post(f"{endpoint.metrics_url}/predictions/digits", content=PNG).status_code == 404
    told = raw.get("/openapi.json").json()
    assert told == json.loads(json.dumps(document({"digits": {VERSION: read_spec(bundle)}})))
    for path in ("/v2/models/digits", f"/v2/models/digits/versions/{VERSION}"):
        assert raw.get(path).json()["versions"] == [VERSION]
        assert raw.get(f"{path}/ready").json() == {"name": "digits", "ready": True}
    answer = raw.get("/predictions/digits")
    assert answer.status_code == 405
    assert "POST is allowed" in answer.json()["error"]


@slow
def test_a_body_over_the_limit_is_never_held(server: OnnxServer, endpoint: Endpoint) -> None:
    """It comes in chunks without a length; only what is within the limit may be in memory."""
    before = {pid: psutil.Process(pid).memory_info().rss for pid in workers_of(endpoint)}
    with connect(endpoint, server, "Transfer-Encoding: chunked\r\n\r\n") as connection:
        piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        for _ in range(600):  # 40 MB
            connection.sendall(piece)
        held = {pid: psutil.Process(pid).memory_info().rss - size for pid, size in before.items()}
        connection.sendall(b"0\r\n\r\n")
        answer = ""
        while not answer.endswith("}"):
            found = connection.recv(65_536)
            assert found
            answer += found.decode()
    assert " 413 " in answer
    assert "1048576 at most" in answer
    assert max(held.values()) < 15 * 2**20


@slow
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("Content-Length: 99\r\n\r\nx", " 408 "),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nx", " 408 "),
        ("X-Half: of a he", ""),
    ],
    ids=["body", "chunk", "head"],
)
def test_a_request_that_does_not_come_is_ended(
    server: OnnxServer, endpoint: Endpoint, head: str, expected: str
) -> None:
    with connect(endpoint, server, head) as connection:
        answer = b""
        while found := connection.recv(65_536):
            answer += found
    assert expected in answer.decode()
    assert bool(answer) == bool(expected)


@slow
def test_tokens_change_without_a_restart(server: OnnxServer, raw: httpx.Client) -> None:
    write_keys(server.folder, 60)
    assert raw.post("/predictions/digits", content=PNG).status_code == 401
    with server.client() as client:
        client.predict(PNG)


@slow
def test_a_dead_worker_and_a_stopped_one_are_replaced(
    server: OnnxServer, endpoint: Endpoint, raw: httpx.Client, bundle: Path
) -> None:
    for number in (signal.SIGKILL, signal.SIGSTOP):
        before = workers_of(endpoint)
        victim = min(before)
        os.kill(victim, number)
        until(lambda gone=victim: gone not in workers_of(endpoint) and len(workers_of(endpoint)) == 2)
        assert not psutil.pid_exists(victim)
    address = raw.base_url.join("/predictions/digits")
    for _ in range(20):  # on new connections, to either worker
        same_answer(httpx.post(address, content=PNG, headers=raw.headers).json(), bundle)


@slow
def test_models_change_without_a_lost_request(
    server: OnnxServer, endpoint: Endpoint, raw: httpx.Client, bundle: Path, archive: Path, tmp_path: Path
) -> None:
    """A new default, then one that is broken, while clients ask without a pause."""
    fresh = shutil.copytree(bundle, tmp_path / "fresh")
    write_json(fresh / "bundle.json", {"version": "fresh"})
    build_archive(fresh, tmp_path / "fresh.mar", "digits")
    broken = shutil.copytree(fresh, tmp_path / "broken")
    write_json(broken / "bundle.json", {"version": "broken"})
    (broken / "model.onnx").write_bytes(b"no graph")
    build_archive(broken, tmp_path / "broken.mar", "digits")
    done, versions, failed = threading.Event(), [], []

    def ask() -> None:
        with server.client() as client:
            while not done.is_set():
                try:
                    versions.append(client.predict(PNG)["model_version"])
                except Exception as error:
                    failed.append(error)

    manage = OnnxManagement(server.folder)

    def ready(version: str) -> int:
        found = manage.version("digits", version)
        assert found
        return found.ready

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        try:
            manage.register(
                stock(endpoint.scratch, "digits", "fresh", tmp_path / "fresh.mar"), server.settings
            )
            until(lambda: ready("fresh") == 2)
            manage.set_default("digits", "fresh")
            manage.unregister("digits", VERSION)
            assert list(manage.versions("digits")) == ["fresh"]
            manage.register(
                stock(endpoint.scratch, "digits", "broken", tmp_path / "broken.mar"), server.settings
            )
            with pytest.raises(ManagementError, match="cannot be loaded: InvalidProtobuf"):
                until(lambda: ready("broken") == 2)
            with pytest.raises(ManagementError, match="did not become the default"):
                OnnxManagement(server.folder, timeout=1).set_default("digits", "broken")
            count = len(versions)
            until(lambda: len(versions) > count + 50)
        finally:
            done.set()
    assert not failed
    assert set(versions) == {VERSION, "fresh"}
    assert set(versions[count:]) == {"fresh"}
    assert raw.post(f"/predictions/digits/{VERSION}", content=PNG).status_code == 404
    manage.register(stock(endpoint.scratch, "digits", VERSION, archive), server.settings)
    until(lambda: ready(VERSION) == 2)
    manage.set_default("digits", VERSION)


@slow
def test_workers_end_with_their_master(server: OnnxServer, endpoint: Endpoint) -> None:
    pids = workers_of(endpoint)
    os.kill(endpoint.pid, signal.SIGKILL)
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert closed(endpoint.url)
    assert running(server.folder) is None
