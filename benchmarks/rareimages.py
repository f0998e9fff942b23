"""A rare class of images, by what is done for it: average precision on unseen samples, in one run.

Digits 4 and 9 of which only a few are 9; the validation samples are as in training, the test ones even. `SEEDS=3`
repeats all with other samples.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from models.params import Model
from pipeline import augment, metrics
from pipeline.core.dataset import Dataset, DatasetWriter, identities
from pipeline.fitting.augmentation import Augmentation
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train, fit
from pipeline.sources import Data, open_source
from serving.inputs.spec import DataSpec, Transform

MANY, FEW, TEST = 300, 15, 150  # of class 4 and of class 9 in training, of either in the test
WAYS = {"nothing": {}, "class weights": {"class_weights": "balanced"}, "oversampling": {"sampling": "over"}}


def digits(names: tuple[str, str]) -> tuple[DataSpec, np.ndarray, np.ndarray]:
    """Two classes of the packaged digits as classes 0 and 1."""
    source = open_source(Data(source="mnist"))
    chunks = [chunk.columns for chunk in source.chunks(512, [])]
    images = np.concatenate([np.asarray(chunk["image"]) for chunk in chunks])
    labels = np.concatenate([np.asarray(chunk["label"]) for chunk in chunks])
    mine = np.isin(labels, [int(name) for name in names])
    spec = source.spec.model_copy(update={"classes": names})
    return spec, images[mine], (labels[mine] == int(names[1])).astype(np.int64)


def write(folder: Path, spec: DataSpec, images: np.ndarray, labels: np.ndarray) -> Dataset:
    """A data set folder."""
    with DatasetWriter(folder, spec) as writer:
        writer.append({"image": images, "label": labels, "id": identities(images)})
    return Dataset(folder)


def compare(folder: Path, seed: int) -> dict[str, float]:
    """Average precision of the rare class, by the way."""
    spec, images, labels = digits(("4", "9"))
    order = np.random.default_rng(seed).permutation(len(labels))
    of = [order[labels[order] == label] for label in (0, 1)]
    train = np.concatenate([of[0][TEST : TEST + MANY], of[1][TEST : TEST + FEW]])
    test = np.concatenate([rows[:TEST] for rows in of])
    made = write(folder / "train", spec, images[train], labels[train])
    write(folder / "test", spec, images[test], labels[test])
    fitted = Transform(mean=(float(images[train].mean()),), std=(float(images[train].std()),))
    compute = Compute(accelerator="cpu", threads=1)
    settings = augment.Augment(factor=0, oversample="gan")
    augment.augment(made, fitted, settings, seed, folder / "gan", compute)
    found = {}
    for name, changes in {**WAYS, "GAN images": {}}.items():
        given = Train.model_validate(
            {
                "max_epochs": 12,
                "patience": 0,
                "batch_size": 32,
                "augmentation": Augmentation(strength=0),
                **changes,
            }
        )
        place = folder / ("gan" if name == "GAN images" else "train")
        job = Job(
            Model(width=8), given, spec, fitted, place, folder / "test", seed, compute
        )  # last epoch: no choice
        served = fit(job, [])
        with torch.inference_mode():
            outputs = served(torch.from_numpy(images[test])).numpy()
        ones = np.ones((1, len(test)))
        found[name] = float(metrics.average_precision_of(ones, labels[test] == 1, outputs[:, 1])[0])
    return found


def run() -> dict[str, float | str]:
    """Every way, averaged over the seeds."""
    results = []
    for seed in range(int(os.environ.get("SEEDS", "2"))):
        with TemporaryDirectory() as scratch:
            results.append(compare(Path(scratch), seed))
    return {
        f"average precision, {FEW} beside {MANY}: {name}{end}": value
        for name in results[0]
        for end, value in (
            ("", float(np.mean([each[name] for each in results]))),
            (", worst seed", min(each[name] for each in results)),
        )
    }
