"""What a search costs: epochs until it has what full trials find, by Hyperband, random search and Ray Tune's ASHA.

All search the same space with the same function, a real training of a small network on packaged digits, one trial at a
time. Full trials of random values set the target: the validation loss of the best of them, and a little. The others get
a third of their epochs, and the same random values where values are random. A search as good as another reaches the
best of it in half of the seeds: so the median says at what cost they are equal. `SEEDS=3` and `TRIALS=8` shorten it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
from scipy.stats import t as student

from benchmarks.searching import EPOCHS, Walk, asha, digits, ours

SEEDS, TRIALS = int(os.environ.get("SEEDS", "11")), int(os.environ.get("TRIALS", "20"))
SHARE, NEAR = 1 / 3, 1.02  # of the epochs of full trials; how near the target counts as reached
PAIRS = (
    ("random, a third of them", "random, full trials"), ("random with Hyperband", "random, full trials"),
    ("TPE, full trials", "random, full trials"), ("TPE with Hyperband", "random, full trials"),
    ("TPE with Hyperband", "TPE, full trials"), ("Ray Tune, random with ASHA", "random, full trials"),
)  # fmt: skip
ENDS = ("median", "lowest", "highest")  # over the seeds


def compare(seed: int, folder: Path) -> tuple[float, dict[str, Walk]]:
    """The target of a seed, and what each search did."""
    job, whole = digits(folder, seed), TRIALS * EPOCHS
    most = int(whole * SHARE)
    sides: dict[str, Callable[[], Walk]] = {
        "random, full trials": lambda: ours(job, folder / "a", "random", "none", whole),
        "TPE, full trials": lambda: ours(job, folder / "d", "tpe", "none", whole),
        "random with Hyperband": lambda: ours(job, folder / "b", "random", "hyperband", most),
        "TPE with Hyperband": lambda: ours(job, folder / "c", "tpe", "hyperband", most),
        "Ray Tune, random with ASHA": lambda: asha(job, folder / "ray", most),
    }
    walks: dict[str, Walk] = {}
    for name, search in sides.items():
        walks[name] = search()
        if name == "random, full trials":
            walks["random, a third of them"] = walks[name].within(most)
        target = walks["random, full trials"].best[0] * NEAR
        for told in list(walks)[-2 if name == "random, full trials" else -1 :]:
            loss, score = walks[told].best
            print(
                f"  seed {seed}: {told}: {walks[told].epochs} epochs, best {loss:.4f} (score {score:.4f}), target "
                f"{target:.4f} after {walks[told].until(target):.0f} epochs, {walks[told].seconds:.0f} s", flush=True,
            )  # fmt: skip
    return target, walks


def spread(values: list[float]) -> dict[str, Any]:
    """Median and range over the seeds; infinite ones are written as none."""
    ends = dict(zip(ENDS, (median(values), min(values), max(values)), strict=True))
    return {name: value if np.isfinite(value) else None for name, value in ends.items()} | {
        "all": [value if np.isfinite(value) else None for value in values]
    }


def mean_of(values: list[float]) -> str:
    """The mean, with Student's interval over the seeds."""
    half = float(student.ppf(0.975, len(values) - 1)) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):+.4f} ({np.mean(values) - half:+.4f} to {np.mean(values) + half:+.4f})"


def run() -> dict[str, Any]:
    """Each search over some seeds."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
    }  # no reports, no tables on the screen
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    results = []
    for seed in range(SEEDS):
        with TemporaryDirectory() as scratch:
            results.append(compare(seed, Path(scratch)))
    figures: dict[str, Any] = {
        "seeds": SEEDS, "epochs of full trials": TRIALS * EPOCHS, "target": f"{NEAR} times the best full trial's loss",
    }  # fmt: skip
    for name in results[0][1]:
        walks = [(target, found[name]) for target, found in results]
        until = [walk.until(target) for target, walk in walks]
        sides = {
            "epochs to the target": until, "epochs": [float(walk.epochs) for _, walk in walks],
            "validation loss": [walk.best[0] for _, walk in walks],
            "validation score": [walk.best[1] for _, walk in walks],
            "seconds": [walk.seconds for _, walk in walks],
        }  # fmt: skip
        for what, values in sides.items():
            ends = spread(values)
            shown = ["not reached" if ends[end] is None else f"{ends[end]:.4g}" for end in ENDS]
            figures[f"{name}: {what}"] = f"{shown[0]} ({shown[1]} to {shown[2]})"
            figures[f"{name}: {what}, by seed"] = ends["all"]
        figures[f"{name}: seeds that reached the target"] = sum(value < float("inf") for value in until)
    full = [found["random, full trials"] for _, found in results]
    for name, other in PAIRS:
        gaps = [found[name].best[1] - found[other].best[1] for _, found in results]
        figures[f"{name}: score less that of '{other}', mean and 95 % interval"] = mean_of(gaps)
    for name in ("random with Hyperband", "TPE with Hyperband"):
        shares = [
            found[name].until(target) / walk.epochs
            for (target, found), walk in zip(results, full, strict=True)
        ]
        figures[f"{name}: epochs to the target over those of full trials"] = spread(shares)["median"]
    return figures
