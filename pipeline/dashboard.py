"""optuna-dashboard over the stored studies, for as long as somebody looks at them."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna

from pipeline.core.params import UserError
from pipeline.extras import DASHBOARD
from pipeline.mlflow_store import studies
from pipeline.tuning.storage import opened
from pipeline.ui import ENDS, HOST

PORT = 8090  # where it is free
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
NONE = "no study is stored yet in {}: 'make repro', or 'dvc repro tune', begins one (tune.trials above 0)"


class Threaded(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread of its own, as a page asks for many at once."""

    daemon_threads = True


class Silent(WSGIRequestHandler):
    """Writes no line a request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def serve_dashboard(port: int) -> int:
    """Run the dashboard on loopback until it is interrupted; port 0 takes 8090, or any other where that is in use.

    Raises:
        UserError: it is not installed, there is no study, or the port is taken.
    """
    if DASHBOARD.absent:
        raise UserError(
            "the dashboard is not installed; 'make dashboard' does it, or pip install 'fairlead[dashboard]'"
        )
    from optuna_dashboard import wsgi

    storage = stored()
    with make_server(HOST, free(port), own(wsgi(storage)), Threaded, Silent) as server:
        for number in ENDS:
            signal.signal(number, leave)
        print(f"optuna-dashboard on http://{HOST}:{server.server_port} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def stored() -> optuna.storages.BaseStorage:
    """The storage of the studies, which holds one at least; looking makes no file.

    Raises:
        UserError: there is none, or the database does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    address = studies()
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
        raise UserError(NONE.format(address))
    storage = optuna.storages.get_storage(opened(address))
    if not storage.get_all_studies():
        raise UserError(NONE.format("the database of tracking.studies"))
    return storage


def free(port: int) -> int:
    """The port itself where it is free; of 0, 8090 or any that is.

    Raises:
        UserError: the port that is asked for is taken.
    """
    with socket.socket() as probe:
        taken = probe.connect_ex((HOST, port or PORT)) == 0
    if port and taken:
        raise UserError(f"port {port} is in use; stop what holds it, or give another: --port N")
    return 0 if taken else port or PORT


def own(app: App) -> App:
    """Answers requests to this machine by its own names alone, so that no page of another site can have it asked."""

    def guarded(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("HTTP_HOST", "").rpartition(":")[0] in (HOST, "localhost"):
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"ask for 127.0.0.1 or localhost\n"]

    return guarded


def leave(*_: object) -> None:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt
