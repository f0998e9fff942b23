"""MLflow from outside: a server that is not there or fails, and the pages that `fairlead ui` opens."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import mlflow_store
from pipeline.core.params import UserError
from tests.stores import PARAMS, answers, environment, family, forget, free_port, wait_healthy

pytestmark = pytest.mark.slow


# A server that is not there

SCRIPT = """
from pipeline import mlflow_store, tracking
from pipeline.core.stage import main
main(lambda: tracking.start("never", {}), "tune")
"""


def test_a_dead_server_ends_a_stage_soon_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    address = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment(MLFLOW_TRACKING_URI=address),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    (message,) = done.stderr.strip().splitlines()
    assert message.startswith(f"tune: the MLflow server at {address} does not answer (")
    assert "unset MLFLOW_TRACKING_URI" in message
    assert time.monotonic() - began < 10
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"], "nothing was made"


def test_a_server_that_hangs_is_given_up_after_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        forget()
        began = time.monotonic()
        with pytest.raises(UserError, match=r"does not answer \(timed out\)"):
            mlflow_store.client()
        assert time.monotonic() - began < 10


def test_a_server_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server}/nowhere")
    forget()
    with pytest.raises(UserError, match=r"/nowhere does not answer \(Client error '404"):
        mlflow_store.client()


# The pages


def fairlead_ui(folder: Path, port: int, **more: str) -> subprocess.Popen[str]:
    (folder / "params.yaml").write_text(PARAMS)
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "ui", "--port", str(port)], cwd=folder, env=environment(**more),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_pages_open_and_end_leaving_no_process_and_no_port(
    end: signal.Signals, local_folder: Path
) -> None:
    port = free_port()
    process = fairlead_ui(local_folder, port)
    members = family(process.pid)
    try:
        wait_healthy(process, port)
        members = family(process.pid)
        assert 3 <= len(members) <= 5, "no job runners beside the server and its worker"
        process.send_signal(end)
        out, err = process.communicate(timeout=30)
        left = [member for member in members if member.is_running()]
    finally:
        for member in members:
            if member.is_running():
                member.kill()
    assert left == []
    assert process.returncode == 0
    assert re.search(
        rf"MLflow on http://127\.0\.0\.1:{port}/#/experiments/\d+/runs\?\S+ \(Ctrl-C ends it\)", out
    )
    assert "Traceback" not in err
    assert not answers(port)


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = fairlead_ui(tmp_path, port)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == f"error: port {port} is in use; stop what holds it, or give another: --port N\n"


def test_a_store_that_is_a_server_has_pages_of_its_own(tmp_path: Path) -> None:
    process = fairlead_ui(tmp_path, free_port(), MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == "error: the runs are on the MLflow server http://127.0.0.1:9; open that address\n"
