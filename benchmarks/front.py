"""What the front costs: the same server asked straight, through the front, and through the front with TLS.

The three are asked in turn, round after round, so that whatever else the machine does meets all of them; the figures to
trust are the ratios to the server asked straight.
"""

from __future__ import annotations

import http.client
import ssl
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.soak import PNG, served
from serving.endpoint import read_endpoint, read_token
from serving.front import Front
from serving.process import free_ports
from serving.settings import ServerSettings

ROUNDS, LONE, SECONDS, CONNECTIONS = 5, 300, 3.0, 32
Connect = Callable[[], http.client.HTTPConnection]
Asked = tuple[str, dict[str, str]]  # path and headers


def run() -> dict[str, Any]:
    """Median of one connection's latency in ms, and requests a second of many, of each way to ask."""
    with tempfile.TemporaryDirectory() as scratch, served() as state:
        endpoint = read_endpoint(state)
        ports = {"inference_port": int(endpoint.url.rpartition(":")[2])}
        certificate, key = _certificate(Path(scratch))
        tls = {"tls_certificate": str(certificate), "tls_key": str(key)}
        fronts = []
        for name, given in (("front", {}), ("front with TLS", tls)):
            folder = Path(scratch) / name.replace(" ", "-")
            folder.mkdir()
            settings = ServerSettings(**{**free_ports(), **ports, "front": True, **given})  # type: ignore[arg-type]
            fronts.append((name, Front(folder, settings), settings))
        ways: dict[str, Connect] = {"straight": _plain(ports["inference_port"])}
        try:
            for name, front, settings in fronts:
                front.start()
                secure = settings.tls_certificate
                ways[name] = (
                    _secure(settings.front_port, certificate) if secure else _plain(settings.front_port)
                )
            headers = {"Authorization": f"Bearer {read_token(state)}", "Content-Type": "image/png"}
            return _measure(ways, (f"/predictions/{endpoint.name}", headers))
        finally:
            for _, front, _ in fronts:
                front.stop()


def _measure(ways: dict[str, Connect], asked: Asked) -> dict[str, Any]:
    lone: dict[str, list[float]] = {name: [] for name in ways}
    many: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, connect in ways.items():
            lone[name].append(statistics.median(_latencies(connect, asked)))
            many[name].append(_rate(connect, asked))
    figures: dict[str, Any] = {}
    for name in ways:
        figures[f"{name}, p50 of one connection, ms"] = statistics.median(lone[name])
        figures[f"{name}, requests a second of {CONNECTIONS}"] = statistics.median(many[name])
    for name in list(ways)[1:]:
        figures[f"{name}, latency to straight"] = statistics.median(
            front / bare for front, bare in zip(lone[name], lone["straight"], strict=True)
        )
        figures[f"{name}, requests to straight"] = statistics.median(
            front / bare for front, bare in zip(many[name], many["straight"], strict=True)
        )
    return figures


def _ask(connection: http.client.HTTPConnection, asked: Asked) -> None:
    connection.request("POST", asked[0], PNG, asked[1])
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body


def _latencies(connect: Connect, asked: Asked) -> list[float]:
    connection, found = connect(), []
    for _ in range(LONE):
        began = time.perf_counter()
        _ask(connection, asked)
        found.append(1000 * (time.perf_counter() - began))
    connection.close()
    return found[LONE // 10 :]


def _rate(connect: Connect, asked: Asked) -> float:
    """Requests a second of many connections, each of which waits for its answer before it asks again."""
    answered = [0] * CONNECTIONS
    end = time.monotonic() + SECONDS

    def ask(at: int) -> None:
        connection = connect()
        while time.monotonic() < end:
            _ask(connection, asked)
            answered[at] += 1
        connection.close()

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered) / SECONDS


def _plain(port: int) -> Connect:
    return lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def _secure(port: int, certificate: Path) -> Connect:
    context = ssl.create_default_context(cafile=str(certificate))
    return lambda: http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for loopback that signs itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:P-256", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    key.chmod(0o600)
    return certificate, key
