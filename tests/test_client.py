"""What the client tries again, and what never: against a small HTTP server that fails as it is told."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from serving.client import Client
from serving.endpoint import KEY_FILE, STATE_FILE, Endpoint, RequestError
from serving.inputs.spec import write_json
from serving.process import free_ports


class Server(ThreadingHTTPServer):
    """Does what `script` says, one entry a request, and answers well after that; keeps what it was sent."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.script: list[Any] = []
        self.seen: list[tuple[str, str, bytes]] = []
        self.token = "token"
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, self.headers["X-Request-Id"], body))
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            return self._answer(400, {"message": "Token Authorization failed."})
        step = self.server.script.pop(0) if self.server.script else 200
        if step == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return None
        if step == "silent":
            time.sleep(1)
            self.close_connection = True
            return None
        status, headers = step if isinstance(step, tuple) else (step, {})
        return self._answer(status, {"label": "a"} if status == 200 else {"error": "no luck"}, headers)

    def _answer(self, status: int, content: dict[str, str], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        yield started
        started.shutdown()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client would have waited."""
    told: list[float] = []
    monkeypatch.setattr("serving.client.time.sleep", told.append)
    return told


@pytest.mark.parametrize("failure", [429, 500, 502, 503, 504, 507, "reset", "silent"])
def test_what_passes_is_asked_again_under_the_same_id(server: Server, failure: Any) -> None:
    server.script = [failure]
    with Client(server.url, "token", "m", timeout=0.5) as client:
        assert client.predict(b"body") == {"label": "a"}
    assert len(server.seen) == 2
    assert server.seen[0] == server.seen[1]
    assert server.seen[0][0] == "/predictions/m"
    assert len(server.seen[0][1]) == 32


def test_the_callers_own_id_is_kept(server: Server) -> None:
    server.script = [503]
    with Client(server.url, "token", "m") as client:
        client.predict(b"body", request_id="order-7")
    assert [request_id for _, request_id, _ in server.seen] == ["order-7"] * 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 409, 413, 422, 501])
def test_the_callers_own_mistake_is_told_at_once(server: Server, status: int) -> None:
    server.script = [status]
    with Client(server.url, "token", "m") as client, pytest.raises(RequestError, match="no luck") as refused:
        client.predict(b"body")
    assert refused.value.status == status
    assert len(server.seen) == 1


def test_a_request_that_always_fails_is_given_up(server: Server, waits: list[float]) -> None:
    """It may be the request that kills the workers."""
    server.script = [500] * 20
    with Client(server.url, "token", "m", retries=3) as client, pytest.raises(RequestError, match="500"):
        client.predict(b"body")
    assert len(server.seen) == 4
    assert len(waits) == 3
    assert all(0 <= wait <= 0.1 * 2**at for at, wait in enumerate(waits))


def test_no_retries_means_one_try(server: Server, waits: list[float]) -> None:
    for failure in (503, "reset"):
        server.script, server.seen = [failure], []
        with Client(server.url, "token", "m", retries=0) as client, pytest.raises(RequestError):
            client.predict(b"body")
        assert len(server.seen) == 1
    url = f"http://127.0.0.1:{free_ports()['inference_port']}"
    with Client(url, "token", "m", retries=0) as client, pytest.raises(RequestError, match="cannot reach"):
        client.predict(b"body")
    assert not waits


def test_the_server_says_how_long_to_wait(server: Server, waits: list[float]) -> None:
    server.script = [(429, {"Retry-After": "7"}), (503, {"Retry-After": "nonsense"})]
    with Client(server.url, "token", "m") as client:
        client.predict(b"body")
    assert waits[0] == 7
    assert waits[1] < 1
    server.script = [(429, {"Retry-After": "3600"})]
    with Client(server.url, "token", "m") as client, pytest.raises(RequestError, match="429"):
        client.predict(b"body")
    assert len(waits) == 2, "an hour is longer than the deadline"


def test_a_date_to_wait_for(server: Server, waits: list[float]) -> None:
    server.script = [(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
    with Client(server.url, "token", "m") as client:
        client.predict(b"body")
    assert waits[0] <= 0.1, "that date has passed"


def test_a_server_that_comes_back_is_found(waits: list[float]) -> None:
    """Where nothing listens no try is used up."""
    port = free_ports()["inference_port"]
    started: list[Server] = []

    def late(_: float) -> None:
        waits.append(0)
        if len(waits) == 12:
            started.append(Server(port))

    with pytest.MonkeyPatch.context() as patch, Client(f"http://127.0.0.1:{port}", "token", "m") as client:
        patch.setattr("serving.client.time.sleep", late)
        assert client.predict(b"body") == {"label": "a"}
    started[0].shutdown()
    started[0].server_close()
    assert len(started[0].seen) == 1


def test_nobody_there_is_told_as_such() -> None:
    url = f"http://127.0.0.1:{free_ports()['inference_port']}"
    with Client(url, "token", "m", deadline=0.5) as client:
        with pytest.raises(RequestError, match="cannot reach") as refused:
            client.predict(b"body")
        assert not refused.value.reached
        assert refused.value.status is None


def _described(folder: Path, url: str, pid: int) -> None:
    urls = {"url": url, "management_url": url, "metrics_url": url}
    record = Endpoint(pid=pid, created=0, name="m", version="1", scratch=folder / "s", **urls)  # type: ignore[arg-type]
    write_json(folder / STATE_FILE, record)


def test_a_token_renewed_at_a_restart_is_read(server: Server, tmp_path: Path) -> None:
    _described(tmp_path, server.url, os.getpid())
    (tmp_path / KEY_FILE).write_text('{"inference": {"key": "old"}}')
    with Client.local(tmp_path) as client:
        (tmp_path / KEY_FILE).write_text('{"inference": {"key": "token"}}')
        assert client.predict(b"body") == {"label": "a"}
        server.token = "other"
        server.seen.clear()
        with pytest.raises(RequestError, match="Token Authorization failed"):
            client.predict(b"body")
    assert len(server.seen) == 1, "the file holds no other token than the one that was refused"


def test_a_local_server_that_nobody_keeps_up_is_not_waited_for(tmp_path: Path, waits: list[float]) -> None:
    _described(tmp_path, f"http://127.0.0.1:{free_ports()['inference_port']}", 2**22 + 1)  # above pid_max
    with pytest.raises(RequestError, match="is the server up"):
        Client.local(tmp_path)
    (tmp_path / KEY_FILE).write_text('{"inference": {"key": "token"}}')
    with Client.local(tmp_path) as client, pytest.raises(RequestError, match="cannot reach"):
        client.predict(b"body")
    assert not waits
