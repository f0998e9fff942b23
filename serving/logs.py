"""The server's logs as a reader sees them: how they end, and what is added."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

LOGS = ("supervisor.log", "console.log", "server.log")
NOISE = ("sun.reflect.Reflection", "nvidia-smi not available", "\tat ")
# The line that ends a traceback, Python's or Java's. All of them are told, as TorchServe lets a handler's
# ImportError end in a misleading one of its own.
RAISED = re.compile(r"(?:MODEL_LOG - |^)(?!model_name|WARNING)((?:\w+\.)*\w+: .+)", re.MULTILINE)


def plain(line: str) -> str:
    """A line of TorchServe's log, which is JSON, as one reads it; any other as it is."""
    try:
        said = json.loads(line)
        text = f"{said['at']} {said['level']:5} {said['logger']} - {said['message']}"
    except (ValueError, KeyError, TypeError):
        return line
    return f"{text}\n{said['raised'].rstrip()}" if said.get("raised") else text


def read_log(folder: Path) -> str:
    """Java's console, then what TorchServe and the workers logged since its start."""
    paths = [path for path in (folder / name for name in LOGS[1:]) if path.exists()]
    return "\n".join(plain(line) for path in paths for line in path.read_text(errors="replace").splitlines())


def why(log: str) -> str:
    """What a log says was raised, and how it ends."""
    raised = "".join(f"\n  {line}" for line in dict.fromkeys(RAISED.findall(log)))
    lines = [line for line in log.splitlines() if not any(noise in line for noise in NOISE)]
    return "\n".join([f":{raised}" if raised else "", "the log ends:", *lines[-12:]])


def last(folder: Path, lines: int) -> dict[Path, list[str]]:
    """The last lines of each log in a state folder; logs that say nothing are left out."""
    found = {}
    for path in (folder / name for name in LOGS):
        try:
            with path.open(errors="replace") as file:
                if path.stat().st_size:
                    found[path] = [plain(line.rstrip("\n")) for line in deque(file, maxlen=lines)]
        except OSError:
            continue
    return found


def follow(folder: Path, tell: Callable[[str], None], pause: float = 0.3) -> None:
    """Tell each line that is added to a log, for ever; a log that is rotated or begun anew is read from its start."""
    seen = {path: _mark(path) for path in (folder / name for name in LOGS)}
    while True:
        time.sleep(pause)
        for path, (inode, offset) in seen.items():
            now, size = _mark(path)
            if now == inode and size == offset:
                continue
            at = offset if now == inode and size >= offset else 0
            try:
                with path.open("rb") as file:
                    file.seek(at)
                    added = file.read()
            except OSError:
                continue
            whole = added.rfind(b"\n") + 1  # what is not a line yet is told when it is
            seen[path] = (now, at + whole)
            for line in added[:whole].decode(errors="replace").splitlines():
                tell(plain(line))


def _mark(path: Path) -> tuple[int, int]:
    """Which file it is, and how long."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size
