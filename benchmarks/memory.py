"""Peak memory of `ingest` and `prepare` at 1, 4 and 16 times the samples: it must not grow with them (Linux)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

BASE = 2000
ROOT = Path(__file__).resolve().parent.parent
PARAMS = "name: memory\nseed: 1\ndata: {source: images, path: photos}\n"
CHILD = """
import runpy, sys
sys.argv = [sys.argv[1]]
try:
    runpy.run_module("pipeline." + sys.argv[0], run_name="__main__")
finally:
    # Not ru_maxrss, which counts the parent's memory from before the child became its own program.
    print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def write_folder(root: Path, count: int) -> None:
    """Two classes of small random PNGs, `count` in all."""
    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(count // 2):
            pixels = generator.integers(0, 256, (28, 28), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number:06}.png", compress_level=1)


def peak(stage: str, folder: Path) -> float:
    """Peak resident memory of a stage, in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, stage], cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout.split()[-1]) / 2**10  # KiB


def run() -> dict[str, float]:
    """MiB at each size, and the growth from 1x to 16x."""
    figures: dict[str, float] = {}
    for times in (1, 4, 16):
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "params.yaml").write_text(PARAMS)
            write_folder(folder / "photos", BASE * times)
            figures[f"ingest, {BASE * times:,} samples, MiB"] = peak("ingest", folder)
            (folder / "data" / "validate").mkdir()
            np.save(folder / "data" / "validate" / "groups.npy", np.arange(BASE * times))
            figures[f"prepare, {BASE * times:,} samples, MiB"] = peak("prepare", folder)
    for stage in ("ingest", "prepare"):
        small, large = (figures[f"{stage}, {BASE * times:,} samples, MiB"] for times in (1, 16))
        figures[f"{stage}, growth from 1x to 16x, MiB"] = large - small
    return figures
