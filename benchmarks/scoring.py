"""`fairlead score`: samples a second by one process and by all, and peak memory at 10,000 to 1,000,000 rows (Linux).

The model is a graph made by hand, so that what is measured is reading, decoding and writing, the floor of every model.
Memory must not grow with the rows. Ray is measured where it is installed, on a cluster of this machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.data import write_table
from benchmarks.memory import write_folder
from serving.inputs.spec import Column, DataSpec, ImageInput, TableField, TableInput
from tests.bundles import write_bundle

ROOT = Path(__file__).resolve().parent.parent
SIZES = (10_000, 100_000, 1_000_000)
IMAGES = 5_000


def specs() -> Iterator[tuple[str, DataSpec]]:
    """What `write_table` and `write_folder` write, as a model takes it."""
    label = Column(name="label", role="target", dtype="<i8")
    fields = (
        *(TableField(name=f"n{at}", kind="number") for at in range(8)),
        TableField(name="day", kind="date"),
        TableField(name="colour", kind="category", categories=tuple(f"colour {at}" for at in range(6))),
        TableField(name="town", kind="category", categories=tuple(f"town {at}" for at in range(300))),
    )
    row = Column(name="row", role="input", dtype="<f4", shape=(len(fields),))
    image = Column(name="image", role="input", dtype="|u1", shape=(1, 28, 28))
    same = {"task": "classification", "source": "benchmark", "classes": ("no", "yes")}
    yield (
        "table",
        DataSpec.model_validate(
            {"modality": "table", "columns": (row, label), "table": TableInput(fields=fields), **same}
        ),
    )
    yield (
        "image",
        DataSpec.model_validate(
            {"modality": "image", "columns": (image, label), "image": ImageInput(), **same}
        ),
    )


def peaks(process: psutil.Process, found: dict[int, float]) -> None:
    """The most memory each process of a tree held so far, in MiB."""
    for each in (process, *process.children(recursive=True)):
        status = Path(f"/proc/{each.pid}/status")
        try:
            if hit := re.search(r"VmHWM:\s+(\d+)", status.read_text()):
                found[each.pid] = int(hit[1]) / 2**10
        except OSError:
            continue


def score(given: Path, bundle: Path, *more: str) -> tuple[float, float]:
    """Seconds, and the most memory that any of its processes took, in MiB."""
    command = [
        "-m",
        "pipeline.cli",
        "score",
        str(given),
        "--out",
        "out.parquet",
        "--force",
        "--bundle",
        str(bundle),
        *more,
    ]
    began, found = time.perf_counter(), dict[int, float]()
    with (given.parent / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=given.parent, stdout=log, stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        while process.poll() is None:
            try:
                peaks(psutil.Process(process.pid), found)
            except psutil.Error:
                break
            time.sleep(0.1)
        process.wait()
        log.seek(0)
        assert process.returncode == 0, log.read()
    seconds = time.perf_counter() - began
    (given.parent / "out.parquet.json").unlink()
    return seconds, max(found.values())


def run() -> dict[str, float]:
    """Samples a second and MiB."""
    figures: dict[str, float] = {}
    cores = len(os.sched_getaffinity(0))
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundles = {name: write_bundle(folder / "bundles" / name, spec) for name, spec in specs()}
        for rows in SIZES:
            write_table(folder / f"rows{rows}", rows)
            given = folder / f"rows{rows}" / "rows.csv"
            seconds, memory = score(given, bundles["table"], "--keep", "day", "--workers", "1")
            figures[f"{rows:,} rows of CSV, one process, rows a second"] = rows / seconds
            figures[f"{rows:,} rows of CSV, one process, MiB"] = memory
        figures["growth from the least rows to the most, MiB"] = (
            figures[f"{SIZES[-1]:,} rows of CSV, one process, MiB"]
            - figures[f"{SIZES[0]:,} rows of CSV, one process, MiB"]
        )
        seconds, memory = score(given, bundles["table"], "--keep", "day")
        figures[f"{rows:,} rows of CSV, {cores} processes, rows a second"] = rows / seconds
        figures[f"{rows:,} rows of CSV, {cores} processes, MiB of the largest"] = memory
        write_folder(folder / "images" / "files", IMAGES)
        seconds, _ = score(folder / "images" / "files", bundles["image"])
        figures[f"{IMAGES:,} images, {cores} processes, images a second"] = IMAGES / seconds
        if find_spec("ray"):
            seconds, _ = score(given, bundles["table"], "--keep", "day", "--engine", "ray")
            figures[f"{rows:,} rows of CSV, Ray on {cores} cores, its start included, rows a second"] = (
                rows / seconds
            )
    return figures
