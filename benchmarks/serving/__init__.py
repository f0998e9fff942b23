"""Speed of serving: ours against what else could serve the same model, in one run, on the same requests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.serving.install import CACHE, install


def options(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark can be told."""
    group = parser.add_argument_group("serving")
    group.add_argument("--quick", action="store_true", help="shorter loads and fewer rounds, about 4 minutes")
    group.add_argument("--install", action="store_true", help="make the peers' environments, and stop")
    group.add_argument("--peers", type=Path, default=CACHE, help="where they are (%(default)s)")
    group.add_argument("--sides", help="only these, by commas")


def partial(given: argparse.Namespace) -> bool:
    """True where the figures are none to keep."""
    return bool(given.quick or given.sides)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Figures of every side, or of those that were named."""
    if given.install:
        failed = install(given.peers)
        sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
    from benchmarks.serving.campaign import FULL, QUICK, campaign
    from benchmarks.serving.sides import SIDES

    names = given.sides.split(",") if given.sides else list(SIDES)
    if unknown := [name for name in names if name not in SIDES]:
        sys.exit(f"no side {', '.join(unknown)}; there are {', '.join(SIDES)}")
    return campaign(names, QUICK if given.quick else FULL, given.peers)
