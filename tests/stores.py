"""The two stores of runs that tests record in: a real MLflow server, and the local database that is the default."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline import mlflow_store, tracking

ROOT = Path(__file__).parents[1]
PARAMS = "name: digits\nseed: 7\ntracking: {system_metrics_seconds: 0.2}\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_healthy(process: subprocess.Popen[str], port: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).text == "OK":
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"no answer on port {port} in {seconds} s")


def family(pid: int) -> list[psutil.Process]:
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return {**kept, "PYTHONPATH": str(ROOT), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **more}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    words = f"-m mlflow server --workers 1 --host 127.0.0.1 --port {port} --backend-store-uri".split()
    stores = [f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *words, *stores],
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
            text=True,
        )
        try:
            wait_healthy(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            members = family(process.pid)
            process.terminate()
            for member in psutil.wait_procs(members, 10)[1]:
                member.kill()
            process.wait(10)


@pytest.fixture(scope="session")
def local_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose runs are in its own database; made once, as MLflow takes seconds to lay it out."""
    return tmp_path_factory.mktemp("local")


def forget() -> None:
    mlflow_store.client.cache_clear()
    tracking.lineage.cache_clear()


@pytest.fixture(params=["server", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A project on each of the two stores; gives the store's URI."""
    if request.param == "server":
        folder, address = tmp_path, str(request.getfixturevalue("server"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    else:
        folder, address = request.getfixturevalue("local_folder"), "sqlite:///mlflow.db"
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(folder)
    forget()
    yield address
    forget()
