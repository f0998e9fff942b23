"""What stands around a server for as long as it is kept up: the page for Prometheus and, where asked for, the front."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from serving.client import Client
from serving.endpoint import Kind, RequestError, read_endpoint, read_token
from serving.front import Front
from serving.metrics import CONTENT_TYPE, clear, page
from serving.settings import ServerError, ServerSettings
from serving.state import golden_requests, read_models
from serving.worker.messages import PROBE

FRESH = 1.0  # seconds that what was found of a server's readiness holds


@contextlib.contextmanager
def edge(folder: Path, settings: ServerSettings, kind: Kind) -> Iterator[None]:
    """Serve `/metrics` and `/ready`, and run the front, until the end of the context.

    Args:
        folder: the server's state folder.
        settings: section `server` of `params.yaml`.
        kind: which server; TorchServe has a page of its own.

    Raises:
        ServerError: a port is taken, or the front cannot start.
    """
    clear(folder)
    own = f"http://{settings.host}:{settings.metrics_port}/metrics"
    with contextlib.ExitStack() as held:
        served = serve_page(folder, settings, own if kind == "torchserve" else None)
        held.callback(served.server_close)
        held.callback(served.shutdown)
        if settings.fronted:
            front = Front(folder, settings)
            front.start()
            held.callback(front.stop)
        yield


def serve_page(folder: Path, settings: ServerSettings, server_url: str | None) -> ThreadingHTTPServer:
    """Serve `/metrics` and `/ready` from a thread, until `shutdown()`.

    Raises:
        ServerError: the port is taken.
    """
    readiness = Readiness(folder, settings.response_timeout + 2.0)

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds for a request that does not come

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, page(folder, server_url), CONTENT_TYPE)
            elif path == "/ready":
                models = readiness.look()
                good = bool(models) and not any(models.values())
                content = {"status": "Healthy" if good else "Unhealthy", "models": models}
                self._answer(200 if good else 503, json.dumps(content).encode(), "application/json")
            else:
                self._answer(404, b"only /metrics and /ready are here\n", "text/plain")

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """No line for each scrape."""

    try:
        server = ThreadingHTTPServer((settings.host, settings.prometheus_port), Handler)
    except OSError as error:
        raise ServerError(
            f"port {settings.prometheus_port} ('server.prometheus_port') cannot be used: {error.strerror}"
        ) from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


class Readiness:
    """Whether every model answers a real request; asked at most once a second, however often it is wanted."""

    def __init__(self, folder: Path, timeout: float) -> None:
        self._folder, self._timeout = folder, timeout
        self._lock = threading.Lock()
        self._found: tuple[float, dict[str, str | None]] = (-FRESH, {})

    def look(self) -> dict[str, str | None]:
        """What is wrong with each model, None where it answers; empty where none is served."""
        with self._lock:
            at, found = self._found
            if time.monotonic() - at > FRESH:
                found = self._ask()
                self._found = (time.monotonic(), found)
            return found

    def _ask(self) -> dict[str, str | None]:
        try:
            served = read_models(self._folder).models
            return {name: self._wrong(name, each.versions[each.default]) for name, each in served.items()}
        except ServerError as error:
            return {"": str(error)}

    def _wrong(self, name: str, archive: Path) -> str | None:
        try:
            endpoint, token = read_endpoint(self._folder), read_token(self._folder)
            body, kind, _ = golden_requests(archive)[0]
            with Client(endpoint.url, token, name, self._timeout, retries=0) as client:
                client.predict(body, kind, PROBE)
        except (RequestError, ServerError) as error:
            return str(error)
        return None
