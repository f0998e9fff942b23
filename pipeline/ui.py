"""MLflow's own pages over the local store, for as long as somebody looks at them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import psutil

from pipeline.core.params import UserError, section
from pipeline.mlflow_store import VIEW, Tracking, experiment_id, uri

HOST = "127.0.0.1"
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve_ui(port: int) -> int:
    """Run MLflow's server on the local store, on loopback, until it is interrupted; give its exit code.

    Raises:
        UserError: the store is a server, which has a UI of its own, or the port is taken.
    """
    if uri().startswith("http"):
        raise UserError(f"the runs are on the MLflow server {uri()}; open that address")
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise UserError(f"port {port} is in use; stop what holds it, or give another: --port N")
    runs = f"#/experiments/{experiment_id()}/runs?{VIEW}"
    print(f"MLflow on http://{HOST}:{port}/{runs} (Ctrl-C ends it)", flush=True)
    command = f"-m mlflow server --workers 1 --host {HOST} --port {port}".split()
    artifacts = section("tracking", Tracking).artifacts
    stores = ["--artifacts-destination", artifacts]
    # Without this MLflow starts nine processes, of 200 MB each, for jobs that we never give it.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["MLFLOW_BACKEND_STORE_URI"] = (
        uri()
    )  # not an argument, which others could read: it may hold a password
    for number in ENDS:
        signal.signal(number, _leave)
    process = subprocess.Popen(
        [sys.executable, *command, *stores],
        env=environment,
        start_new_session=True,  # Ctrl-C reaches us alone, and we end the server once
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        end(process.pid)


def end(pid: int, patience: float = 5.0) -> None:
    """End a process and all that it started; what has not ended after `patience` seconds is killed."""
    try:
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    first.terminate()
    for member in psutil.wait_procs(family, patience)[1]:
        member.kill()
    psutil.wait_procs(family, patience)


def _leave(*_: object) -> None:
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave the server behind
    raise KeyboardInterrupt
