"""A Ray cluster, joined or started on this machine for the purpose; our code goes to its workers."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.params import UserError
from pipeline.core.stage import STATE

ROOT = Path(__file__).parents[2]  # of our packages
REACH = 10  # seconds until a cluster that does not answer is given up
PATIENCE = 15  # seconds until a node is said not to see the project's folder


def library() -> Any:
    """The package `ray`.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # else a call after the end starts Ray by itself
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("the engine 'ray' needs the extra 'ray': pip install 'fairlead[ray]'") from None
    return ray


@contextmanager
def joined(address: str = "") -> Iterator[Any]:
    """Ray, connected to the cluster at an address, or to one started here and ended with the block.

    A connection that is there already is used, and left as it is.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    ray = library()
    if ray.is_initialized():
        yield ray
        return
    join(ray, address or os.environ.get("RAY_ADDRESS", ""))
    try:
        yield ray
    finally:
        ray.shutdown()


def join(ray: Any, address: str) -> None:
    """Join a cluster, sending it our code, or start one."""
    if address.startswith("ray://"):
        raise UserError(
            f"the Ray cluster at '{address}' is joined from one of its own nodes, not through Ray's client: "
            "run the command there (as deploy/rayjob.yaml does), with the address 'auto'"
        )
    if ":" in address:  # Ray itself tries for minutes
        host, _, port = address.rpartition("/")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH).close()
        except (OSError, ValueError) as error:
            raise UserError(f"no Ray cluster answers at '{address}': {error}") from None
    # Workers elsewhere need this very code.
    code = [str(ROOT / package) for package in ("pipeline", "serving", "models")]
    plain: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        plain |= {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        plain |= {"address": address, "runtime_env": {"py_modules": code}}
    ours = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**plain)
    except (ConnectionError, RuntimeError, ValueError) as error:
        told = str(error).splitlines()[0]
        raise UserError(f"no Ray cluster can be joined at '{address or 'this machine'}': {told}") from None
    finally:
        if ours is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)  # Ray's prints a trace and ends the process at once


def alive(ray: Any) -> list[dict[str, float]]:
    """The resources (CPU, GPU, ...) of each node that lives."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


@contextmanager
def shared_folder() -> Iterator[str]:
    """A file of the project's folder that its workers look for: only a folder that is shared has it."""
    marks = STATE / "ray"
    marks.mkdir(parents=True, exist_ok=True)
    mark = marks.absolute() / uuid.uuid4().hex
    mark.touch()
    try:
        yield str(mark)
    finally:
        mark.unlink(missing_ok=True)


def enter(mark: str) -> None:
    """Work in the project's folder, as the parent does.

    Raises:
        UserError: this node does not see it.
    """
    file = Path(mark)
    folder = file.parents[2]
    for _ in range(PATIENCE):
        if file.exists():
            os.chdir(folder)
            return
        if not folder.exists():
            break
        time.sleep(1)  # file systems of a network show a new file late
    raise UserError(
        f"the node {socket.gethostname()} does not see {folder}: all nodes of a Ray cluster need the "
        "project's folder at the same place, on a file system that they share (NFS, Lustre, a ReadWriteMany volume)"
    )
