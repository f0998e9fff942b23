"""Small data sets and jobs of every modality, for tests of fitting that need no stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.params import Model
from pipeline.core.dataset import DatasetWriter, columns_of, identities
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train
from serving.inputs.spec import Column, DataSpec, TableField, TableInput, Transform

CPU = Compute(accelerator="cpu", threads=1)


def table_spec(kinds: Sequence[str], classes: Sequence[str] = ("no", "yes"), targets: int = 0) -> DataSpec:
    """Fields of these kinds, numbers before categories; a category knows a, b and c."""
    fields = tuple(
        TableField.model_validate(
            {"name": f"f{at}", "kind": kind, "categories": ("a", "b", "c") if kind == "category" else ()}
        )
        for at, kind in enumerate(kinds)
    )
    given = Column(name="row", role="input", dtype="<f4", shape=(len(fields),))
    return DataSpec(
        modality="table", task="regression" if targets else "classification", source="small",
        columns=columns_of(given, targets), classes=() if targets else tuple(classes),
        targets=tuple(f"t{at}" for at in range(targets)), table=TableInput(fields=fields),
    )  # fmt: skip


def transform_of(rows: np.ndarray, spec: DataSpec, targets: np.ndarray) -> Transform:
    """The moments of these rows (N, F + G); every category is known."""
    assert spec.table is not None
    numbers = rows[:, : len(spec.table.numbers)].astype(np.float64)
    moments: dict[str, Any] = {}
    if spec.task == "regression":
        moments = {
            "target_mean": tuple(targets.mean(0).tolist()),
            "target_std": tuple(targets.std(0).tolist()),
        }
    return Transform(
        mean=tuple(np.nanmean(numbers, 0).tolist()), std=tuple(np.nanstd(numbers, 0).tolist()),
        known=tuple((True,) * (len(field.categories) + 1) for field in spec.table.categories), **moments,
    )  # fmt: skip


def write(folder: Path, spec: DataSpec, rows: Any, targets: np.ndarray) -> Path:
    """A data set folder of these rows."""
    with DatasetWriter(folder, spec) as writer:
        writer.append({spec.input.name: rows, spec.target.name: targets, "id": identities(rows)})
    return folder


def table_job(
    folder: Path,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    settings: dict[str, Any],
    model: dict[str, Any] | None = None,
    seed: int = 7,
) -> Job:
    """A job on rows of numbers (N, F) with classes (N,), or with values (N, M)."""
    targets = train[1].shape[1] if train[1].ndim == 2 else 0
    names = tuple(f"c{label}" for label in range(int(train[1].max()) + 1)) if not targets else ()
    spec = table_spec(["number"] * train[0].shape[1], names, targets)
    if not (folder / "train").exists():
        write(folder / "train", spec, *train)
        write(folder / "val", spec, *val)
    fnn = Model.model_validate({"family": "fnn", "width": 16, "depth": 1, "dropout": 0.0, **(model or {})})
    given = {"max_epochs": 6, "batch_size": 32, "lr": 0.02, "patience": 0, "label_smoothing": 0.0, **settings}
    return Job(
        fnn, Train.model_validate(given), spec, transform_of(train[0], spec, train[1]),
        folder / "train", folder / "val", seed, CPU,
    )  # fmt: skip


def blobs(
    count: int, seed: int, share: float = 0.5, distance: float = 2.0, size: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, size) float32 of two Gaussian classes so far apart, and their labels; `share` are of class 1."""
    draw = np.random.default_rng(seed)
    labels = (np.arange(count) < round(share * count)).astype(np.int64)
    rows = draw.normal(size=(count, size)).astype(np.float32)
    rows[:, 0] += distance * labels
    order = draw.permutation(count)
    return rows[order], labels[order]
