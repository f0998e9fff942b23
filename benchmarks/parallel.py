"""The same trials with one worker and with two, turn by turn: how much sooner are two done?

On two idle cores at least 1.6 times as fast is asked for. The time is that of the search, in which two workers load
their libraries once and one loads none; beside it that of the whole stage.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.studies import Project
from pipeline.tuning.study import SECONDS, ended

SAMPLES, EPOCHS, TRIALS, ROUNDS = 3400, 8, 24, 3


def run() -> dict[str, float]:
    """Seconds of one and of two, and the median ratio of turns."""
    search: dict[int, list[float]] = {1: [], 2: []}
    stage: dict[int, list[float]] = {1: [], 2: []}
    values = []
    with tempfile.TemporaryDirectory(prefix="fairlead-parallel-") as scratch:
        for turn in range(ROUNDS):
            for workers in search:
                folder = Path(scratch) / f"{turn}-{workers}"
                project = Project(
                    folder, SAMPLES, {"trials": TRIALS, "max_epochs": EPOCHS}, {"workers": workers}
                )
                began = time.monotonic()
                project.run()
                stage[workers].append(time.monotonic() - began)
                study = project.study()
                search[workers].append(study.user_attrs[SECONDS])
                values.append([trial.values for trial in ended(study)])
                print(f"  round {turn + 1}, {workers} workers: {search[workers][-1]:.1f} s", flush=True)
    assert all(each == values[0] for each in values), "the workers changed the results"
    ratio = {
        f"{name}, one over two (median of {ROUNDS})": statistics.median(
            one / two for one, two in zip(times[1], times[2], strict=True)
        )
        for name, times in (("search", search), ("stage", stage))
    }
    return {
        "trials": float(TRIALS),
        "one worker, seconds": statistics.median(search[1]),
        "two workers, seconds": statistics.median(search[2]),
        **ratio,
    }
