"""Stage `augment`: what more can train see? Writes the training set that the models are fitted on.

Costly transforms are made here once; cheap random ones stay in the training loop (`train.augmentation`).
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from tqdm import tqdm

from pipeline.core.dataset import CHUNK, Dataset, DatasetWriter, numbered
from pipeline.core.params import Section, section
from pipeline.core.project import Seed
from pipeline.core.stage import DATA, main, replacing
from pipeline.engine.ray_data import in_order
from pipeline.fitting.augmentation import Augmentation, build
from pipeline.fitting.compute import Compute
from pipeline.oversampling import completed, synthesise
from pipeline.pictures import samples
from pipeline.rare import Gan, generate
from serving.inputs.ragged import Ragged, Rows, filling
from serving.inputs.spec import Column, Transform

if TYPE_CHECKING:
    from torch import nn

INPUT = DATA / "prepare" / "train"
TRANSFORM = DATA / "prepare" / "transform"
FOLDS = DATA / "prepare" / "folds"
OUTPUT = DATA / "augment"
PICTURED = 12  # samples shown in the picture, each with its transformed copies


class Augment(Section):
    """The `augment` section."""

    factor: int = Field(
        1, ge=0, le=20, description="Transformed copies added for each training sample; 0 adds none."
    )
    transform: Augmentation = Field(
        default_factory=lambda: Augmentation(
            rotation=8, shift=0.05, scale=0.1, shear=6, elastic=1.0, erasing=0.0
        ),
        description="The transforms of the copies.",
    )
    oversample: Literal["none", "smote", "gan"] = Field(
        "none",
        description="Make samples of small classes, until all are as large as the largest: 'smote' rows of tables, "
        "'gan' images.",
    )
    gan: Gan = Field(default_factory=lambda: Gan(), description="The network for oversample: gan.")


def synthetic(
    dataset: Dataset, transform: Transform, settings: Augment, seed: int, compute: Compute
) -> dict[str, Any]:
    """Columns of the samples that are made for small classes; empty where none are asked for."""
    if settings.oversample == "none":
        return {}
    if settings.oversample == "gan":
        return completed(dataset, *generate(dataset, transform, settings.gan, seed, compute))
    return completed(dataset, *synthesise(dataset, transform, seed))


def augment(
    dataset: Dataset,
    transform: Transform,
    settings: Augment,
    seed: int,
    folder: Path,
    compute: Compute = Compute(),  # noqa: B008
    shown: bool = True,
) -> int:
    """Write the originals and synthetic samples, then `factor` transformed copies of both; return the rows made."""
    spec = dataset.spec
    module = build(settings.transform, spec, transform)
    made = synthetic(dataset, transform, settings, seed, compute)
    copies = in_order(
        copied,
        (
            Copying(dataset.folder.absolute(), transform, settings.transform, seed, copy, number)
            for copy in range(1, 1 + settings.factor)
            for number in range(-(-len(dataset) // CHUNK))
        ),
        compute,
    )
    base = len(dataset) + len(made.get("id", ()))
    rows = base * (1 + settings.factor)
    with (
        DatasetWriter(folder, spec) as writer,
        tqdm(total=rows, desc="augment", unit=" samples", leave=False, disable=not shown) as bar,
    ):
        for copy in range(1 + settings.factor):
            for number, chunk in enumerate(itertools.chain(dataset.chunks(), [dict(made)] if made else [])):
                if copy:
                    chunk[spec.input.name] = (
                        next(copies)
                        if number * CHUNK < len(dataset)
                        else transformed(module, chunk[spec.input.name], spec.input, (seed, copy, number))
                    )
                writer.append(chunk)
                bar.update(len(chunk["id"]))
    return rows


@dataclass(frozen=True)
class Copying:
    """A chunk of a data set to be transformed: which one, and the copy's number."""

    folder: Path
    transform: Transform
    settings: Augmentation
    seed: int
    copy: int
    number: int


def copied(task: Copying) -> Rows:
    """The inputs of a chunk, transformed; they depend on the task alone, whatever process makes them."""
    dataset = Dataset(task.folder)
    column, rows = dataset.spec.input, dataset.inputs
    piece = slice(task.number * CHUNK, (task.number + 1) * CHUNK)
    chunk = rows[piece] if isinstance(rows, Ragged) else np.array(rows[piece])
    module = build(task.settings, dataset.spec, task.transform)
    return transformed(module, chunk, column, (task.seed, task.copy, task.number))


def transformed(module: nn.Module, rows: Any, column: Column, drawn: tuple[int, ...]) -> Rows:
    """Rows through a module that maps batches, in their own type; ragged ones keep their lengths.

    `drawn` is what the random choices follow from.
    """
    import torch

    torch.manual_seed(int.from_bytes(hashlib.sha256(repr(drawn).encode()).digest()[:8], "little"))
    if isinstance(rows, Ragged):
        batch = module(torch.from_numpy(rows.padded(filling(column.dtype)))).numpy()
        return Ragged.of(
            [row[:size] for row, size in zip(batch, rows.lengths, strict=True)], column.dtype, column.shape
        )
    out = module(torch.from_numpy(rows))
    return (out.round().clamp(0, 255).byte() if column.dtype == "|u1" else out).numpy()


def picture(folder: Path, originals: int, factor: int) -> None:
    """Draw samples with their copies as `samples.png`: images in a row with the copies below, others one by one."""
    dataset = Dataset(folder)
    first = np.linspace(0, originals - 1, min(PICTURED, originals)).astype(int)
    rows = first + originals * np.arange(1 + factor)[:, None]
    if dataset.spec.modality != "image":
        rows = rows.T
    title = "Training samples and their transformed copies"
    samples(dataset, rows.ravel(), len(first), title, folder / "samples.png")


def transform_in(folder: Path) -> Transform:
    """What was fitted on the training samples of a split."""
    return Transform.model_validate_json((folder / "transform.json").read_text())


def augment_folds(settings: Augment, seed: int, folder: Path, compute: Compute) -> int:
    """Augment the training part of every fold, each from nothing but itself; return how many folds there are."""
    folds = [each for fold in numbered(FOLDS) for each in (fold, *numbered(fold / "inner"))]
    for fold in tqdm(folds, desc="augment: folds", unit=" folds", leave=False, disable=not folds):
        train, transform = Dataset(fold / "train"), transform_in(fold / "transform")
        augment(train, transform, settings, seed, folder / fold.relative_to(FOLDS), compute, shown=False)
    return len(folds)


def run() -> None:
    """Run the stage."""
    settings = section("augment", Augment)
    seed, compute = section("seed", Seed), section("compute", Compute)
    dataset = Dataset(INPUT)
    with replacing(OUTPUT) as folder:
        rows = augment(dataset, transform_in(TRANSFORM), settings, seed, folder, compute)
        base = rows // (1 + settings.factor)
        picture(folder, base, settings.factor)
        folds = augment_folds(settings, seed, folder / "folds", compute)
    synthetic = f", {base - len(dataset)} of small classes synthetic" if settings.oversample != "none" else ""
    print(f"augment: {len(dataset)} training samples became {rows} (factor {settings.factor}{synthetic})")
    if folds:
        print(f"augment: so did the training samples of {folds} folds, each from its own alone")


if __name__ == "__main__":
    main(run, "augment")
