"""TorchServe: the first server.

We run `java` ourselves, because TorchServe's launcher answers 0 when Java crashes and orphans it on SIGTERM.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from serving.config import CONSOLE, LOG, command_line, environment, write_config
from serving.endpoint import Endpoint
from serving.management import Management, ManagementError
from serving.server import PREFIX, Server, record
from serving.settings import ServerError, ServerSettings
from serving.state import Models

FAILURES = ("Load model failed", "Failed to load model", "Backend worker error")


class TorchServe(Server):
    """TorchServe in a Java of its own, with its Python workers."""

    kind = "torchserve"
    process = "Java"

    def _launch(self, models: Models) -> tuple[subprocess.Popen[bytes], Endpoint]:
        return launch(self.folder, self.settings, models, self.owned, self.model_api)

    def _until_loaded(self, models: Models, deadline: float, report: Callable[[str], None]) -> None:
        """Wait for every worker of every version, and tell a failure from slowness by what the log says."""
        wanted, shown = self.settings.workers * len(models.every()), -1
        with Management(self.folder, timeout=2) as management:
            while (ready := _ready_workers(management, models)) < wanted:
                assert self._process is not None
                if (code := self._process.poll()) is not None:
                    raise ServerError(f"Java ended with exit code {code}{self._why()}")
                if any(sign in self._log() for sign in FAILURES):
                    time.sleep(1.5)  # the cause may follow its symptom
                    named = ", ".join(str(path) for _, _, path in models.every())
                    raise ServerError(f"the server cannot load {named}{self._why()}")
                if time.monotonic() > deadline:
                    limit = self.settings.start_timeout
                    raise ServerError(f"{ready} workers ready after {limit} s{self._why()}")
                if ready != shown:
                    report(f"loading the model: {ready} of {wanted} workers ready")
                    shown = ready
                time.sleep(0.1)


def launch(
    folder: Path, settings: ServerSettings, models: Models, owned: bool, model_api: bool = False
) -> tuple[subprocess.Popen[bytes], Endpoint]:
    """Start Java with `models` in a state folder, and record it there; it is not ready yet."""
    scratch = Path(tempfile.mkdtemp(prefix=PREFIX))  # short, as a worker's socket path must be
    process = None
    for name in (CONSOLE, LOG):  # what a failed run said must not be taken for what this one says
        with contextlib.suppress(FileNotFoundError):
            (folder / name).replace(folder / f"{name}.before")
    try:
        write_config(folder, scratch, models, settings, model_api)
        with (folder / CONSOLE).open("wb") as console:
            process = subprocess.Popen(
                command_line(folder, scratch, settings, owned),
                cwd=folder,  # where TorchServe writes its tokens
                env=environment(folder, scratch),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                umask=0o077,
            )
        return process, record(folder, process.pid, settings, models, scratch, "torchserve")
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _ready_workers(management: Management, models: Models) -> int:
    """How many workers hold their model; 0 while the server cannot be asked yet."""
    try:
        return sum(
            min(known[version].ready, known[version].min_workers)
            for name, served in models.models.items()
            if (known := management.versions(name))
            for version in served.versions
            if version in known
        )
    except ManagementError:
        return 0
