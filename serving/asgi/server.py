"""Starts and stops the second server: ONNX Runtime in processes of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from serving.asgi.keys import write_keys
from serving.asgi.management import write_wanted
from serving.asgi.run import RUN, WORKERS, Run, read_table
from serving.config import CONSOLE, TETHER, environment, write_options
from serving.endpoint import KEY_FILE, Endpoint
from serving.process import running
from serving.server import PREFIX, Server, record
from serving.settings import ServerError
from serving.state import Models

HOME = Path(__file__).parents[2]  # where the package `serving` lies


def command_line(scratch: Path, owned: bool) -> list[str]:
    """The master process; `owned` ties its life to the thread that starts it."""
    command = [sys.executable, "-m", "serving.asgi.master", str(scratch)]
    tether = [sys.executable, "-I", "-S", "-c", TETHER, str(os.getpid())]
    return [*tether, *command] if owned and sys.platform == "linux" else command


class OnnxServer(Server):
    """ONNX Runtime behind a small app, in worker processes of its own."""

    kind = "onnx"
    process = "the workers"

    def _launch(self, models: Models) -> tuple[subprocess.Popen[bytes], Endpoint]:
        scratch = Path(tempfile.mkdtemp(prefix=PREFIX))
        process = None
        try:
            write_keys(self.folder, self.settings.token_minutes)
            keys = self.folder / KEY_FILE
            run = Run(folder=self.folder, key_file=keys, host=self.settings.host, settings=self.settings)
            (scratch / RUN).write_text(run.model_dump_json())
            write_wanted(scratch, models)
            write_options(self.folder, self.settings)
            with (self.folder / CONSOLE).open("wb") as console:
                process = subprocess.Popen(
                    command_line(scratch, self.owned),
                    env=environment(self.folder, scratch) | {"PYTHONPATH": str(HOME)},
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                    umask=0o077,
                )
            return process, record(self.folder, process.pid, self.settings, models, scratch, self.kind)
        except BaseException:
            if process is not None:
                process.kill()
                process.wait()
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    def _until_loaded(self, models: Models, deadline: float, report: Callable[[str], None]) -> None:
        """Wait until every worker has every version."""
        wanted = {(name, version) for name, version, _ in models.every()}
        endpoint, shown = running(self.folder), -1
        while endpoint and (ready := ready_workers(endpoint.scratch, wanted)) < self.settings.workers:
            assert self._process is not None
            if (code := self._process.poll()) is not None:
                raise ServerError(f"the server ended with exit code {code}{self._why()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{ready} workers ready after {self.settings.start_timeout} s{self._why()}")
            if ready != shown:
                report(f"loading the model: {ready} of {self.settings.workers} workers ready")
                shown = ready
            time.sleep(0.05)


def ready_workers(scratch: Path, wanted: set[tuple[str, str]]) -> int:
    """How many workers hold all of these versions."""
    workers = read_table(scratch / WORKERS).values()
    return sum(
        wanted <= {(name, version) for name, model in each.items() for version in model["versions"]}
        for each in workers
    )
