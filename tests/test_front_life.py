"""How the front begins and ends, and which of its settings are refused."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from serving.front import Front, check_certificate, find_caddy
from serving.process import free_ports
from serving.settings import ServerError, ServerSettings
from tests.certificates import write_certificate
from tests.live import mentioning

BUILT_IN = shutil.which("caddy") is not None
pytestmark = pytest.mark.skipif(not BUILT_IN, reason="needs the extra 'front'")


def _refused(answer: httpx.Response, status: int, reason: str) -> None:
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert reason in answer.json()["error"]
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def _plain(**given: object) -> ServerSettings:
    return ServerSettings(**{**free_ports(), "front": True, **given})  # type: ignore[arg-type]


def test_no_server_gets_502_and_a_killed_front_comes_back_and_leaves_nothing(tmp_path: Path) -> None:
    settings = _plain()
    front = Front(tmp_path, settings)
    front.start()
    scratch = front._scratch
    (caddy,) = mentioning(tmp_path)
    url = str(settings.front_url)
    _refused(httpx.post(f"{url}/predictions/m", trust_env=False, timeout=20), 502, "starting again")
    caddy.kill()
    deadline = time.monotonic() + 30
    while True:
        try:
            answer = httpx.get(f"{url}/nothing", trust_env=False)
            break
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    _refused(answer, 404, "no such address")
    front.stop()
    assert not mentioning(tmp_path)
    assert scratch is not None
    assert not scratch.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    settings = _plain()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.front_port))
        taken.listen()
        with pytest.raises(ServerError, match=rf"{settings.front_port} is in use .*server\.front_port"):
            Front(tmp_path, settings).start()


def test_a_caddy_that_we_do_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "caddy"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(ServerError, match=r"is not the Caddy 2\.11\.7 .*server\.caddy"):
        find_caddy(None)
    assert find_caddy(str(other)) == str(other)
    other.unlink()
    with pytest.raises(ServerError, match=r"fairlead\[front\]"):
        find_caddy(None)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"front_host": "0.0.0.0"}, "plain text"),  # noqa: S104
        ({"front_host": "::"}, "plain text"),
        ({"front_host": "example.org"}, "plain text"),
        ({"tls_certificate": "a.pem"}, "go together"),
        ({"front_port": 8080, "inference_port": 8080}, "must differ"),
        ({"front_host": "127.0.0.1; rm"}, "pattern"),
    ],
)
def test_settings_that_would_be_unsafe_are_refused(given: dict, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ServerSettings(**{"front": True, **given})


def test_two_settings_switch_tls_on() -> None:
    assert ServerSettings(tls_certificate="a.pem", tls_key="b.pem").front_url == "https://127.0.0.1:8443"
    assert ServerSettings().front_url is None


def test_a_certificate_of_no_use_is_said(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    check_certificate(certificate, key)
    key.chmod(0o644)
    with pytest.raises(ServerError, match="everyone on this machine can read"):
        check_certificate(certificate, key)
    key.chmod(0o600)
    (tmp_path / "other").mkdir()
    other, _ = write_certificate(tmp_path / "other")
    with pytest.raises(ServerError, match="no certificate and its key"):
        check_certificate(other, key)
    with pytest.raises(ServerError, match=r"server\.tls_key.*found none"):
        check_certificate(certificate, tmp_path / "none.pem")
