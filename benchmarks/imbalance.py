"""Means against imbalance on one table with 5 % of a class, compared by average precision on a test, over seeds.

The rows are drawn: two Gaussian classes that overlap, eight numbers of which three say something. Every means sees the
same rows, split and seed, so its difference to doing nothing is paired; its 95 % interval is Student's over the seeds.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy import stats

from models.params import Model
from pipeline.core.dataset import DatasetWriter, columns_of, identities
from pipeline.core.ranking import average_precision_of
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train, fit
from pipeline.oversampling import smote
from serving.inputs.spec import Column, DataSpec, TableField, TableInput, Transform

SEEDS, COUNTS, SHARE, SIZE = 6, (2000, 1000, 8000), 0.05, 8
MEANS: dict[str, dict[str, Any]] = {
    "none": {},
    "class_weights": {"class_weights": "balanced"},
    "focal": {"focal": 2.0},
    "over": {"sampling": "over"},
    "under": {"sampling": "under"},
    "smote": {},
}
SPEC = DataSpec(
    modality="table", task="classification", source="benchmark", classes=("common", "rare"),
    columns=columns_of(Column(name="row", role="input", dtype="<f4", shape=(SIZE,)), 0),
    table=TableInput(fields=tuple(TableField(name=f"n{at}", kind="number") for at in range(SIZE))),
)  # fmt: skip
STANDARD = Transform(mean=(0.0,) * SIZE, std=(1.0,) * SIZE)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, 8) float32 and labels (N,), 1 for the rare class."""
    draw = np.random.default_rng(seed)
    labels = (draw.random(count) < SHARE).astype(np.int64)
    rows = draw.normal(size=(count, SIZE))
    rows[:, :2] += 1.0 * labels[:, None]
    rows[:, 2] *= 1 + labels  # told by its size, not by its sign
    return rows.astype(np.float32), labels


def write(folder: Path, rows: np.ndarray, labels: np.ndarray) -> Path:
    """A data set folder."""
    with DatasetWriter(folder, SPEC) as writer:
        writer.append({"row": rows, "label": labels, "id": identities(rows)})
    return folder


def precision(means: str, seed: int, folder: Path) -> float:
    """Average precision on the test of a network fitted with one of `MEANS`."""
    (rows, labels), val, test = (drawn(count, 10 * seed + part) for part, count in enumerate(COUNTS))
    if means == "smote":
        assert SPEC.table is not None
        more = smote(rows, labels, SPEC.table, STANDARD, seed)
        rows, labels = np.concatenate([rows, more[0]]), np.concatenate([labels, more[1]])
    train = Train.model_validate(
        {"max_epochs": 12, "batch_size": 64, "lr": 0.005, "patience": 0, "doctor": False}
    )
    job = Job(
        Model(family="fnn", width=32, depth=2), train.model_copy(update=MEANS[means]), SPEC, STANDARD,
        write(folder / "train", rows, labels), write(folder / "val", *val), seed,
        Compute(accelerator="cpu", threads=1),
    )  # fmt: skip
    served = fit(job, [])
    with torch.no_grad():
        scores = served(torch.from_numpy(test[0]))[:, 1].numpy()
    return float(average_precision_of(np.ones((1, len(scores))), test[1] == 1, scores)[0])


def run() -> dict[str, float]:
    """Mean average precision of each means, and its difference to none with the ends of its interval."""
    found: dict[str, list[float]] = {name: [] for name in MEANS}
    for seed in range(SEEDS):
        for name in MEANS:
            with TemporaryDirectory() as scratch:
                found[name].append(precision(name, seed, Path(scratch)))
    figures: dict[str, float] = {}
    for name, values in found.items():
        figures[f"{name}, average precision"] = float(np.mean(values))
        if name != "none":
            apart = np.subtract(values, found["none"])
            half = stats.t.ppf(0.975, SEEDS - 1) * apart.std(ddof=1) / SEEDS**0.5
            figures[f"{name} less none"] = float(apart.mean())
            figures[f"{name} less none, low"] = float(apart.mean() - half)
            figures[f"{name} less none, high"] = float(apart.mean() + half)
    return figures
