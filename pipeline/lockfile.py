"""DVC writes its files in place, so a kill at that moment leaves half of one: here they are mended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from pipeline.core.stage import LOCK, LOCK_KEPT

RWLOCK = Path(".dvc/tmp/rwlock")  # which paths a running DVC reads and writes


def whole(path: Path) -> bool:
    """True where DVC can read the file: YAML whose entries have whole numbers for sizes."""
    try:
        stages = yaml.safe_load(path.read_text())["stages"]
        entries = [
            entry for stage in stages.values() for kind in ("deps", "outs") for entry in stage.get(kind, [])
        ]
        return all("path" in entry and isinstance(entry.get("size", 0), int) for entry in entries)
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
        return False


def mend(lock: Path = LOCK, kept: Path = LOCK_KEPT) -> str | None:
    """Put the last whole `dvc.lock` back where the present one is broken; say what was done."""
    if not lock.exists() or whole(lock):
        return None
    if kept.exists() and whole(kept):
        shutil.copy(kept, lock)
        return f"{lock} was cut short by a kill; the one before it is back, and what it lacks is run again"
    lock.unlink()
    return f"{lock} was cut short by a kill and is removed; every stage is run again"


def unlock(rwlock: Path = RWLOCK) -> None:
    """Remove DVC's list of locked paths where it cannot be read, which DVC itself refuses to go on from."""
    try:
        json.loads(rwlock.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        rwlock.unlink(missing_ok=True)
