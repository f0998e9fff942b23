"""The parent of the second server's workers: `python -m serving.asgi.master SCRATCH`.

It holds the listening sockets, one a worker, between which the kernel shares out the connections. So a worker that
dies takes no waiting connection with it: its successor finds them in the socket.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from serving.asgi.run import BEAT, TABLE, WANTED, WORKERS, Table, read_run, read_table, write_whole
from serving.settings import PORTS, ServerSettings
from serving.state import Models

log = logging.getLogger(__name__)
SLOWEST = 5.0  # seconds between two starts of a worker that dies again and again
SILENT = (
    5.0  # seconds beyond the time limit of an answer after which a worker without a sign of life is ended
)


class Worker:
    """One place for a worker process: its sockets stay, whichever process has them."""

    def __init__(self, scratch: Path, host: str, settings: ServerSettings) -> None:
        self.scratch, self.settings = scratch, settings
        self.sockets = [_listen(host, getattr(settings, port)) for port in (PORTS[0], PORTS[2])]
        self.models: Table = {}
        self.beaten = False  # it has been alive at least once
        self._failures, self._next, self._pipe, self._read = 0, 0.0, -1, b""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process where none runs and its time has come."""
        if self._process is not None or time.monotonic() < self._next:
            return
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        files = [theirs, *(each.fileno() for each in self.sockets)]
        words = [sys.executable, "-m", "serving.asgi.worker", str(self.scratch), *map(str, files)]
        self._process = subprocess.Popen(words, pass_fds=files, stdin=subprocess.DEVNULL)
        os.close(theirs)
        self._heard = time.monotonic()

    def watch(self) -> bool:
        """Hear its signs of life, and see whether it died; True where it died."""
        if self._process is None:
            return False
        self._listen()
        if self._process.poll() is None:
            limit = self.settings.response_timeout + SILENT if self.models else self.settings.start_timeout
            if time.monotonic() - self._heard <= limit:
                return False
            log.error("worker %d gave no sign of life for %g s: it is killed", self.pid, limit)
            self._process.kill()
            self._process.wait()
        log.error("worker %d ended with code %d", self.pid, self._process.returncode)
        self._failures = 0 if self.models else self._failures + 1
        self._next = time.monotonic() + (min(SLOWEST, 0.1 * 2**self._failures) if self._failures else 0)
        os.close(self._pipe)
        self._process, self.models, self._read = None, {}, b""
        return True

    def _listen(self) -> None:
        try:
            while said := os.read(self._pipe, 65_536):
                self._read += said
        except BlockingIOError:
            pass
        *lines, self._read = self._read.split(b"\n")
        if lines:
            self._heard, self.beaten = time.monotonic(), True
            self.models = json.loads(lines[-1])

    def end(self, signal_number: int) -> None:
        """Tell the process to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal_number)

    def ended(self, seconds: float) -> bool:
        """Wait for its end; False where it lives on."""
        try:
            return self._process is None or self._process.wait(seconds) is not None
        except subprocess.TimeoutExpired:
            return False


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    listening.listen(2048)
    return listening


def unpack(models: Models, scratch: Path) -> Table:
    """Unpack the archives that are not unpacked yet; the table of them for the workers."""
    table: Table = {}
    for name, version, archive in models.every():
        place = scratch / "models" / name / version
        if not place.exists():
            fresh = place.with_name(f".{version}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            with zipfile.ZipFile(archive) as packed:
                inside = [each for each in packed.namelist() if each.startswith("bundle/")]
                packed.extractall(fresh, inside)
            fresh.replace(place)
        table.setdefault(name, {"default": version, "versions": {}})  # a model's default comes first
        table[name]["versions"][version] = str(place / "bundle")
    return table


class Master:
    """Starts the workers, starts them again when they die, and tells them what to serve."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.run = scratch, read_run(scratch)
        self.stamp, self.ending = 0, False
        settings = self.run.settings
        self.workers = [Worker(scratch, self.run.host, settings) for _ in range(settings.workers)]

    def serve(self) -> int:
        """Until SIGTERM or SIGINT; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        self._follow()
        while not self.ending:
            for worker in self.workers:
                if worker.watch() and not any(each.beaten for each in self.workers):
                    log.error("the first workers could not start: nothing is served")
                    self.ending = True
                    self._stop()
                    return 1
                if not self.ending:
                    worker.start()
            self._tell()
            self._follow()
            time.sleep(BEAT / 2)
        self._stop()
        return 0

    def _end(self, *_: object) -> None:
        self.ending = True

    def _follow(self) -> None:
        """Take what is wanted, where it changed; what cannot be read or unpacked changes nothing."""
        path = self.scratch / WANTED
        if (stamp := path.stat().st_mtime_ns) == self.stamp:
            return
        first, self.stamp = not self.stamp, stamp
        try:
            wanted = Models.model_validate_json(path.read_bytes())
            write_whole(self.scratch / TABLE, unpack(wanted, self.scratch))
        except (OSError, ValueError, zipfile.BadZipFile):
            if first:
                raise
            log.exception("%s cannot be followed: the models stay as they are", path)

    def _tell(self) -> None:
        """Write which worker has loaded what, for who waits for it."""
        loaded = {str(each.pid): each.models for each in self.workers if each.pid and each.models}
        if loaded != read_table(self.scratch / WORKERS):
            write_whole(self.scratch / WORKERS, loaded)

    def _stop(self) -> None:
        for worker in self.workers:
            worker.end(signal.SIGTERM)
        deadline = time.monotonic() + self.run.settings.response_timeout + 1
        for worker in self.workers:
            if not worker.ended(max(0.1, deadline - time.monotonic())):
                worker.end(signal.SIGKILL)
                worker.ended(SILENT)


def main() -> None:
    """Serve until told to end."""
    form = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form)
    sys.exit(Master(Path(sys.argv[1])).serve())


if __name__ == "__main__":
    main()
