"""One worker process of the second server: `python -m serving.asgi.worker SCRATCH PIPE SOCKET...`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from serving.asgi.app import App
from serving.asgi.keys import Keys
from serving.asgi.models import Models
from serving.asgi.run import BEAT, TABLE, read_run

log = logging.getLogger(__name__)
HEADER = 64 * 1024  # bytes of a request's head


class Patient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP that ends a connection whose request does not come: uvicorn itself would wait for ever."""

    patience = 20.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a request's head, or of a body that nobody reads."""
        super().data_received(data)
        if self._idle:
            self._wait()
        else:
            self._enough()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._enough()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.patience, self._end)

    def _enough(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self) -> None:
        self._late = None
        if self._idle:
            self.transport.close()


class Process:
    """This process: its models, its server, and the pipe through which it tells that it lives."""

    def __init__(self, scratch: Path, beat: int) -> None:
        run = read_run(scratch)
        settings = run.settings
        Patient.patience = float(settings.client_timeout)
        self.beat, self.stuck = beat, False
        self.models = Models(scratch / TABLE, settings, run.folder, self._hung)
        app = App(self.models, Keys(run.key_file), settings, lambda: not self.stuck)
        self.server = uvicorn.Server(
            uvicorn.Config(
                app.asgi,
                http=Patient,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=settings.client_timeout,
                timeout_graceful_shutdown=settings.response_timeout,
                h11_max_incomplete_event_size=HEADER,
                backlog=2048,
            )
        )

    async def run(self, sockets: list[socket.socket]) -> None:
        """Load, serve, and end on SIGTERM or when the master is gone."""
        await self.models.refresh()
        following = asyncio.create_task(self._follow())
        try:
            await self.server.serve(sockets)
        finally:
            following.cancel()

    async def _follow(self) -> None:
        refreshing: asyncio.Task[None] | None = None
        while True:
            if refreshing is None or refreshing.done():
                refreshing = asyncio.create_task(self._refresh())
            try:
                os.write(self.beat, json.dumps(self.models.described()).encode() + b"\n")
            except BlockingIOError:
                pass  # a master that is stopped for a moment
            except OSError:
                log.error("the master is gone: this process ends")
                self.server.should_exit = True
                return
            await asyncio.sleep(BEAT)

    async def _refresh(self) -> None:
        try:
            await self.models.refresh()
        except Exception:
            log.exception("what is to be served cannot be read")

    def _hung(self) -> None:
        """A model is stuck in its thread: tell no one that we are ready, let others have their answer, and end."""
        if not self.stuck:
            self.stuck = True
            asyncio.get_running_loop().call_later(0.5, os._exit, 70)


def main() -> None:
    """Serve until told to end."""
    scratch, beat, *sockets = sys.argv[1:]
    os.set_blocking(int(beat), False)
    form = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # else anyone's bad request writes a line
    process = Process(Path(scratch), int(beat))
    held = [socket.socket(fileno=int(each)) for each in sockets]
    with asyncio.Runner(loop_factory=process.server.config.get_loop_factory()) as runner:
        runner.run(process.run(held))


if __name__ == "__main__":
    main()
