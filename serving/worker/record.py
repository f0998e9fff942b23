"""The request log: what was asked, what was answered, by which version; it never costs an answer.

`requests/<pid>.jsonl` of the state folder holds one line for each batch and version. A file that is full is renamed
to `<pid>-<milliseconds>.jsonl`, and the oldest are deleted where all together exceed the limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = "requests"
BATCHES = 100  # lines that are written at once at the latest
SEGMENTS = 16  # files that the limit is divided among
encode = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` would make an encoder for each line


class RequestLog:
    """Appends to this process's file; threads may share it.

    Lines wait in memory until `flush`, which a thread of the worker calls each second, or until there are `BATCHES`.
    What cannot be written, as on a full disk, is dropped and counted in `lost`.

    Args:
        state: the server's state folder.
        limit: bytes of all files together.
    """

    def __init__(self, state: Path, limit: int) -> None:
        self.folder = state / FOLDER
        self.limit = limit
        self.lost = 0
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._torn = False
        with contextlib.suppress(OSError):
            self._prune()

    def add(
        self, kind: str, model: str, version: str, seconds: float, requests: Sequence[tuple[str, int, Any]]
    ) -> None:
        """Note a batch: of each request its id, status, and label or value."""
        line = {"at": round(time.time(), 3), "kind": kind, "model": model, "version": version}
        self._lines.append(encode({**line, "ms": round(seconds * 1000, 3), "requests": requests}))
        if len(self._lines) >= BATCHES:
            self.flush()

    def flush(self) -> None:
        """Write what waits; never raises."""
        with self._lock:
            lines, self._lines = self._lines, []
            if not lines:
                return
            try:
                self._write("\n".join([*lines, ""]))
            except OSError:
                self._torn = True
                self.lost += len(lines)

    def _write(self, text: str) -> None:
        path = self.folder / f"{os.getpid()}.jsonl"
        data = (("\n" if self._torn else "") + text).encode()  # ends the line that a full disk cut
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError("the disk is full")
            full = file.tell() > self.limit / SEGMENTS
        self._torn = False
        if full:
            path.rename(path.with_name(f"{path.stem}-{time.time_ns() // 1_000_000}.jsonl"))
            self._prune()

    def _prune(self) -> None:
        """Delete the oldest files over the limit, those of workers that are gone included."""
        left = self.limit
        for path in reversed(log_files(self.folder)):
            left -= _size(path)
            if left < 0:
                path.unlink(missing_ok=True)


def log_files(folder: Path) -> list[Path]:
    """The files of a log, the one written last at the end."""
    return sorted(folder.glob("*.jsonl"), key=_written)


def read_log(state: Path) -> Iterator[dict[str, Any]]:
    """Every batch in the log of a state folder, file by file from the oldest; torn lines are left out."""
    for path in log_files(state / FOLDER):
        with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and "requests" in entry:
                        yield entry


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _written(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
