"""Peers' environments: one each, outside the project."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

PINS = Path(__file__).parent / "peers.toml"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairlead/peers"


def install(folder: Path, report: Callable[[str], None] = print) -> list[str]:
    """Make every environment, or bring it to its pins; gives the names of those that failed."""
    pins = tomllib.loads(PINS.read_text())
    failed = []
    for name, packages in pins["peers"].items():
        place, log = folder / name, folder / f"{name}.log"
        folder.mkdir(parents=True, exist_ok=True)
        report(f"{name}: {', '.join(packages)}")
        with log.open("wb") as output:
            for command in (
                [sys.executable, "-m", "venv", str(place)],
                [str(place / "bin/pip"), "install", "--quiet", *pins["shared"], *packages],
            ):
                if subprocess.run(command, stdout=output, stderr=output, check=False).returncode:
                    report(f"{name}: failed, see {log}")
                    failed.append(name)
                    break
    return failed
