"""`make bench`: every benchmark, or those named: `python -m benchmarks training`, `... soak --minutes 60`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks import (
    canary,
    data,
    front,
    imbalance,
    kills,
    memory,
    parallel,
    privacy,
    quality,
    rareimages,
    road,
    rolling,
    scale,
    scoring,
    serving,
    soak,
    throughput,
    training,
    tuning,
)

ALL = {
    "training": training.run,
    "throughput": throughput.run,
    "memory": memory.run,
    "road": road.run,
    "quality": quality.run,
    "data": data.run,
    "imbalance": imbalance.run,
    "rareimages": rareimages.run,
    "kills": kills.run,
    "parallel": parallel.run,
    "privacy": privacy.run,
    "soak": soak.run,
    "rolling": rolling.run,
    "front": front.run,
    "canary": canary.run,
    "scale": scale.run,
    "scoring": scoring.run,
    "serving": serving.run,
    "tuning": tuning.run,
}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run, print a table, and keep the figures with the machine they were taken on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(ALL)}")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="how long 'soak' goes on; one round at least"
    )
    parser.add_argument("--kills", type=int, default=30, help="how often 'kills' kills")
    serving.options(parser)
    given = parser.parse_args()
    names = given.names or list(ALL)
    unknown = [name for name in names if name not in ALL]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}")
    runs = ALL | {
        "soak": lambda: soak.run(given.minutes),
        "serving": lambda: serving.run(given),
        "kills": lambda: kills.run(given.kills),
    }
    RESULTS.mkdir(exist_ok=True)
    for name in names:
        figures = runs[name]()
        about = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
            f"{platform.machine()}, Python {platform.python_version()}",
        }
        if not (name == "serving" and serving.partial(given)):
            (RESULTS / f"{figures.pop('file', name)}.json").write_text(
                json.dumps({**about, **figures}, indent=2) + "\n"
            )
        width = max(map(len, figures))
        print(f"\n{name}  ({about['machine']})")
        for key, value in figures.items():
            if isinstance(value, dict | list):
                continue  # in the file
            print(
                f"  {key:{width}}  {value:,.3f}" if isinstance(value, float) else f"  {key:{width}}  {value}"
            )


if __name__ == "__main__":
    main()
