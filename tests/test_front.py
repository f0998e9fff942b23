"""The front before a server that we can make slow, broken or absent; `test_metrics_live` has a real one behind it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from serving.front import Front
from serving.process import free_ports
from serving.settings import ServerSettings
from tests.certificates import write_certificate

LIMIT = 5000
BUILT_IN = shutil.which("caddy") is not None
pytestmark = pytest.mark.skipif(not BUILT_IN, reason="needs the extra 'front'")


class Upstream(BaseHTTPRequestHandler):
    """Tells what it was asked; as slow as the model's name says."""

    protocol_version = "HTTP/1.1"
    going = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        while "Transfer-Encoding" in self.headers and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size + 2)[:-2]
        if "slow" in self.path:
            self.going.wait(30)
        answer = json.dumps({"path": self.path, "headers": dict(self.headers), "size": len(body)}).encode()
        self.send_response(503 if "ill" in self.path else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None: ...


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that are gone are what we test."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServerSettings:
    certificate, key = write_certificate(tmp_path_factory.mktemp("certificate"))
    return ServerSettings(
        **free_ports(),
        front=True,
        front_timeout=1,
        response_timeout=1,
        max_request_bytes=LIMIT,
        tls_certificate=str(certificate),
        tls_key=str(key),
    )


@pytest.fixture(scope="module")
def front(settings: ServerSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    servers = [
        Quiet(("127.0.0.1", port), Upstream) for port in (settings.inference_port, settings.prometheus_port)
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    front = Front(tmp_path_factory.mktemp("state"), settings)
    front.start()
    yield front
    front.stop()
    Upstream.going.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def client(front: Front, settings: ServerSettings) -> Iterator[httpx.Client]:
    trusted = ssl.create_default_context(cafile=str(settings.tls_certificate))
    with httpx.Client(
        base_url=str(settings.front_url), verify=trusted, timeout=30, trust_env=False
    ) as client:
        yield client


def _raw(settings: ServerSettings, sent: bytes) -> bytes:
    """What comes back for these bytes until the front ends the connection."""
    plain = ssl.create_default_context(cafile=str(settings.tls_certificate))
    with (
        socket.create_connection(("127.0.0.1", settings.front_port), 20) as bare,
        plain.wrap_socket(bare, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(sent)
        received = b""
        while piece := connection.recv(9999):
            received += piece
            if b"HTTP/1.1 499" in received:
                break  # Go holds this connection until the client ends it
    return received


# --- what passes


def test_a_request_passes_with_an_id_and_a_type(client: httpx.Client) -> None:
    answer = client.post("/predictions/m", content=b"x", headers={"Authorization": "Bearer secret"})
    asked = {name.lower(): value for name, value in answer.json()["headers"].items()}
    assert asked["x-request-id"] == answer.headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f-]{36}", asked["x-request-id"])
    assert asked["content-type"] == "application/octet-stream"
    assert asked["authorization"] == "Bearer secret"
    assert "server" not in answer.headers


def test_a_request_keeps_its_own_id_if_it_is_a_proper_one(client: httpx.Client) -> None:
    def kept(*ids: str) -> str:
        headers = [("X-Request-Id", each) for each in ids]
        return client.post("/predictions/m", content=b"x", headers=headers).json()["headers"]["X-Request-Id"]

    assert kept("mine-1_2.3") == "mine-1_2.3"
    for ids in (("a b",), ('"',), ("x" * 129,), ("good", 'b"d'), ("one", "two")):
        assert re.fullmatch("[0-9a-f-]{36}", kept(*ids)), ids


@pytest.mark.parametrize(
    ("path", "passed"),
    [
        ("/predictions/m", "/predictions/m"),
        ("/predictions/m/v1.2", "/predictions/m/v1.2"),
        ("/explanations/m", "/explanations/m"),
        ("/v2/models/m/infer", "/v2/models/m/infer"),
        ("/v2/models/m/versions/1/infer", "/v2/models/m/versions/1/infer"),
        ("/predictions/m?a=1", "/predictions/m?a=1"),
        ("/predictions//m", "/predictions/m"),
        ("/predictions/x/../m", "/predictions/m"),
    ],
)
def test_inference_is_passed_on_with_its_path_made_plain(
    settings: ServerSettings, front: Front, path: str, passed: str
) -> None:
    raw = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    assert f'"path": "{passed}"'.encode() in _raw(settings, raw)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/models", "/metrics", "/ready", "/token?type=inference", "/workflows", "/api-description",
        "/predictions", "/predictions/", "/predictions/m/1/2", "/predictions/../models", "//models",
        "/predictions/%2e%2e/models", "/predictions/..%2f..%2fmodels", "/predictions/m/..;/models",
        "/v2/repository/index", "/v2/models/m/unload", "/wfpredict/m", "/invocations", "/models/m/invoke",
    ],
)  # fmt: skip
def test_nothing_else_is_passed_on(settings: ServerSettings, front: Front, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        raw = (
            f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        received = _raw(settings, raw)
        assert received.startswith(b"HTTP/1.1 404"), received
        assert json.loads(received.partition(b"\r\n\r\n")[2])["error"].startswith("there is no such address")


def test_ping_is_the_readiness_of_the_server(client: httpx.Client) -> None:
    assert client.get("/ping").json()["path"] == "/ready"
    assert client.post("/ping").status_code == 404


# --- what fails: always JSON with a reason


def _refused(answer: httpx.Response, status: int, reason: str) -> None:
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert reason in answer.json()["error"]
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_a_wrong_method_gets_405(client: httpx.Client) -> None:
    _refused(client.get("/predictions/m"), 405, "POST")


@pytest.mark.parametrize("size", [LIMIT + 1, 60 * LIMIT])
def test_a_body_over_the_limit_gets_413(client: httpx.Client, size: int) -> None:
    _refused(client.post("/predictions/m", content=b"x" * size), 413, f"more than {LIMIT} bytes")
    _refused(
        client.post("/predictions/m", content=iter([b"x" * 1000] * (size // 1000 + 1))), 413, "more than"
    )
    assert client.post("/predictions/m", content=b"x" * LIMIT).json()["size"] == LIMIT


def test_a_server_that_does_not_answer_in_time_gets_504(client: httpx.Client) -> None:
    _refused(client.post("/predictions/slow", content=b"x"), 504, "in time")


def test_what_the_server_says_is_passed_back(client: httpx.Client) -> None:
    answer = client.post("/predictions/ill", content=b"x")
    assert (answer.status_code, answer.json()["path"]) == (503, "/predictions/ill")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /predictions/m HT",
        b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nX-Slow: 1\r\n",
        b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
        b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ],
    ids=["nothing", "half a line", "half a header", "half a body", "half a chunk"],
)
def test_a_client_that_stops_sending_is_given_up(settings: ServerSettings, front: Front, sent: bytes) -> None:
    received = _raw(settings, sent)  # returns at all, which a held connection would not
    assert not received.startswith(b"HTTP/1.1 2")


def test_many_stalled_clients_keep_nobody_out(settings: ServerSettings, client: httpx.Client) -> None:
    context = ssl.create_default_context(cafile=str(settings.tls_certificate))
    sent = b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"
    with contextlib.ExitStack() as held:
        for _ in range(100):
            bare = socket.create_connection(("127.0.0.1", settings.front_port), 20)
            held.enter_context(context.wrap_socket(bare, server_hostname="127.0.0.1")).sendall(sent)
        assert client.post("/predictions/m", content=b"x").is_success


@pytest.mark.parametrize(
    "sent",
    [
        b"rubbish\r\n\r\n",
        b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
    ],
    ids=["rubbish", "negative length", "two lengths", "two codings", "a long header"],
)
def test_what_is_no_proper_request_never_reaches_the_server(
    settings: ServerSettings, front: Front, sent: bytes
) -> None:
    """A front and a server that read a request differently are what smuggling needs."""
    assert _raw(settings, sent).split()[1][:1] in b"45"


# --- TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_new_enough(settings: ServerSettings, front: Front, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(settings.tls_certificate))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", settings.front_port), 10) as bare,
        context.wrap_socket(bare, server_hostname="127.0.0.1") as secured,
    ):
        assert (secured.version() or "").endswith(version.name[-1])
        assert secured.selected_alpn_protocol() == "h2"


def test_old_tls_and_plain_text_are_refused(settings: ServerSettings, front: Front) -> None:
    context = ssl.create_default_context(cafile=str(settings.tls_certificate))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", settings.front_port), 10) as bare,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(bare, server_hostname="127.0.0.1")
    url = str(settings.front_url).replace("https", "http")
    assert httpx.post(f"{url}/predictions/m", trust_env=False).status_code == 400


def test_a_renewed_certificate_is_shown_while_requests_go_on(settings: ServerSettings, front: Front) -> None:
    address = ("127.0.0.1", settings.front_port)
    paths = [Path(str(path)) for path in (settings.tls_certificate, settings.tls_key)]
    before, old = ssl.get_server_certificate(address), [path.read_bytes() for path in paths]
    caddy = psutil.Process().children()
    try:
        certificate, _ = write_certificate(paths[0].parent, "rsa")
        deadline = time.monotonic() + 30
        while (shown := certificate_at(address)) == before:
            assert time.monotonic() < deadline
            with httpx.Client(base_url=str(settings.front_url), verify=False, trust_env=False) as client:  # noqa: S501
                assert all(asked(client).is_success for _ in range(5))
        assert shown.split() == certificate.read_text().split()
        assert psutil.Process().children() == caddy
    finally:
        for path, content in zip(paths, old, strict=True):
            path.write_bytes(content)
        front.reload()


def certificate_at(address: tuple[str, int]) -> str:
    """What is shown; a listener that gives way to another may reset a connection that it has not taken yet."""
    try:
        return ssl.get_server_certificate(address)
    except ConnectionError:
        return ssl.get_server_certificate(address)


def asked(client: httpx.Client) -> httpx.Response:
    """Any server may close a connection that is kept alive just as it is used: a client asks again, on a new one."""
    try:
        return client.post("/predictions/m", content=b"x")
    except httpx.RemoteProtocolError:
        return client.post("/predictions/m", content=b"x")


# --- its log


def test_the_access_log_is_json_without_tokens(client: httpx.Client, front: Front) -> None:
    headers = {"Authorization": "Bearer secret-token", "Cookie": "c=secret-cookie", "X-Request-Id": "find-me"}
    client.post("/predictions/m?token=secret-query", content=b"x", headers=headers)
    log = front.folder / "access.log"
    deadline = time.monotonic() + 20
    while "find-me" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (found,) = [line for line in lines if line["request_id"] == "find-me"]
    assert (found["status"], found["request"]["method"]) == (200, "POST")
    assert found["request"]["uri"].startswith("/predictions/m")
    assert found["duration"] > 0
    written = "".join(path.read_text() for path in front.folder.iterdir() if path.is_file())
    for secret in ("secret-token", "secret-cookie", "secret-query"):
        assert secret not in written
    for path in ("access.log", "front.log", "front.json"):
        assert (front.folder / path).stat().st_mode & 0o777 == 0o600
