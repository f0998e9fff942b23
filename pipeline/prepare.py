"""Stage `prepare`: what does the model see? A stable, stratified split and a transform fitted on train."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator
from tqdm import tqdm

from pipeline.core.dataset import Dataset, DatasetWriter
from pipeline.core.params import Section, UserError, section
from pipeline.core.project import Seed
from pipeline.core.stage import DATA, main, replacing
from pipeline.folds import Folds, folds_of, scheme_of
from pipeline.splits import apart, assign, by_time, judged_alone, merged, straddling
from pipeline.transforms import Scaling, Tokenizer, fit
from serving.inputs.spec import write_json

INPUT = DATA / "ingest"
GROUPS = DATA / "validate" / "groups.npy"
OUTPUT = DATA / "prepare"
SPLITS = ("train", "val", "test")
FEW = 3  # samples of a class in a split below which one sample decides what is said of the class


class Prepare(Section):
    """The `prepare` section."""

    val: float = Field(0.15, gt=0, lt=0.9, description="Share of samples for validation (choosing).")
    test: float = Field(0.15, gt=0, lt=0.9, description="Share of samples for the test (reporting, once).")
    tokenizer: Tokenizer = Field(
        "trained",
        description="Of texts: 'trained' on the training split, or MiniLM's own, 'pretrained', which model.family "
        "'transfer' needs.",
    )
    scaling: Scaling = Field(
        "split",
        description="Of series: 'split' scales all by training's moments, 'sample' each by its own, with its level as "
        "further inputs: for amplitudes that differ by orders of magnitude.",
    )

    folds: Folds = Field(default_factory=Folds, description="Cross-validation, for the stage tune.")

    @model_validator(mode="after")
    def _leaves_train(self) -> Prepare:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test is {self.val + self.test:g}; they must leave some for training")
        return self


def groups_of(dataset: Dataset) -> np.ndarray:
    """The groups (N,) that no split may divide: copies that `validate` found, joined with those of a column."""
    groups: np.ndarray = np.load(GROUPS, allow_pickle=False)
    if (column := dataset.spec.role("group")) is not None:
        groups = merged(groups, np.array(dataset.column(column.name)))
    return groups


def splits_of(dataset: Dataset, settings: Prepare, seed: int) -> np.ndarray:
    """Split numbers (N,) uint8: as a column says, by time, or by the content of groups.

    Raises:
        UserError: a split that is given or cut by time has no samples, or a class has too few.
    """
    groups = groups_of(dataset)
    if (column := dataset.spec.role("split")) is not None:
        split = np.array(dataset.column(column.name))
        if count := straddling(groups, split):
            print(f"prepare: {count} groups of copies lie in several of the given splits")
    elif (column := dataset.spec.role("time")) is not None:
        times = np.array(dataset.column(column.name))
        if (begin := dataset.spec.role("begin")) is None:
            split = by_time(times, groups, settings)
        else:  # windows overlap and repeat themselves: time alone decides
            split = by_time(times, np.arange(len(times)), settings)
            split = apart(split, np.array(dataset.column(begin.name)), times)
    else:
        labels = dataset.targets if dataset.spec.classes else np.zeros(len(dataset), np.int64)
        ids = np.array(dataset.column("id"))
        split = assign(ids, labels, groups, settings, seed, dataset.spec.classes)
        return judged_alone(split, ids, labels, seed) if dataset.spec.task == "anomaly" else split
    counts = np.bincount(split, minlength=len(SPLITS))[: len(SPLITS)]
    if not counts.all():
        empty = ", ".join(name for name, count in zip(SPLITS, counts, strict=True) if not count)
        raise UserError(
            f"the split '{empty}' has no samples; see data.split, data.time and the section 'prepare'"
        )
    if dataset.spec.task in ("classification", "generation"):
        present = np.bincount(dataset.targets[split == 0], minlength=len(dataset.spec.classes))
        if unseen := [dataset.spec.classes[label] for label in np.flatnonzero(present == 0)]:
            raise UserError(
                f"the training split has no sample of {', '.join(unseen)}: no model can learn them"
            )
    return split


def write_splits(
    dataset: Dataset,
    split: np.ndarray,
    folder: Path,
    tokenizer: Tokenizer = "trained",
    scaling: Scaling = "split",
    names: Sequence[str] = SPLITS,
) -> None:
    """Fit on train, then write the transform and one data set folder a split: `names` of 0, 1, ..."""
    (folder / "transform").mkdir(parents=True)
    fitted = fit(dataset, split == 0, folder / "transform", tokenizer, scaling)
    write_json(folder / "transform" / "transform.json", fitted.transform)
    writers = [DatasetWriter(folder / name, fitted.spec) for name in names]
    start = 0
    for chunk in dataset.chunks():
        mine = split[start : start + len(chunk["id"])]
        start += len(mine)
        chunk = fitted.encode(chunk)
        for number, writer in enumerate(writers):
            writer.append({name: rows[mine == number] for name, rows in chunk.items()})
    for writer in writers:
        writer.__exit__(None, None, None)


def write_folds(dataset: Dataset, split: np.ndarray, settings: Prepare, seed: int, folder: Path) -> str:
    """Write each fold's train and val with a transform fitted on that train; tell what they are.

    Without folds the folder holds `folds.json` alone, which says so.

    Raises:
        UserError: the data allow no such folds, or the disk has no room for them.
    """
    asked = settings.folds
    folder.mkdir()
    if not asked.number:
        write_json(folder / "folds.json", {"number": 0})
        return ""
    scheme, groups = scheme_of(dataset.spec, asked), groups_of(dataset)
    folds = folds_of(dataset, groups, split < 2, asked.number, scheme, seed)
    inner = [
        folds_of(dataset, groups, fold == 0, asked.inner, scheme, seed, f"of fold {number} the inner ")
        for number, fold in enumerate(folds)
        if asked.inner
    ]
    parts = {Path(str(number)): fold for number, fold in enumerate(folds)}
    parts |= {
        Path(str(k), "inner", str(j)): fold for k, each in enumerate(inner) for j, fold in enumerate(each)
    }
    size = _room_for(dataset, parts.values(), folder)
    for path, part in tqdm(
        parts.items(), desc=f"prepare: folds, some {size:.0f} MB", unit=" folds", leave=False
    ):
        write_splits(dataset, part, folder / path, settings.tokenizer, settings.scaling, SPLITS[:2])
    sizes = [{name: int((fold == at).sum()) for at, name in enumerate(SPLITS[:2])} for fold in folds]
    write_json(
        folder / "folds.json",
        {"number": asked.number, "inner": asked.inner, "scheme": scheme, "sizes": sizes},
    )
    within = f", each with {asked.inner} inner ones" if asked.inner else ""
    return f"prepare: {asked.number} folds ({scheme}){within}, some {size:.0f} MB; " + ", ".join(
        f"{each['train']}+{each['val']}" for each in sizes
    )


def _room_for(dataset: Dataset, parts: Collection[np.ndarray], folder: Path) -> float:
    """Megabytes that copies of these parts will take.

    Raises:
        UserError: the disk has not so many.
    """
    whole = sum(file.stat().st_size for file in dataset.folder.glob("*.npy"))
    wanted = whole * sum(int((part < 2).sum()) for part in parts) / len(dataset)
    if wanted > (free := shutil.disk_usage(folder).free):
        raise UserError(
            f"prepare.folds: {len(parts)} folds take {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
            "set fewer, or free some space"
        )
    return wanted / 1e6


def run() -> None:
    """Run the stage."""
    settings = section("prepare", Prepare)
    seed = section("seed", Seed)
    dataset = Dataset(INPUT)
    split = splits_of(dataset, settings, seed)
    with replacing(OUTPUT) as folder:
        write_splits(dataset, split, folder, settings.tokenizer, settings.scaling)
        told = write_folds(dataset, split, settings, seed, folder / "folds")
    counts = np.bincount(split, minlength=3)[:3]
    shares = ", ".join(f"{name} {count}" for name, count in zip(SPLITS, counts, strict=True))
    print(f"prepare: {shares}{class_drift(dataset, split)}")
    for line in (few_of_a_class(dataset, split), told):
        if line:
            print(line)


def class_counts(dataset: Dataset, split: np.ndarray) -> np.ndarray:
    """Samples (3, K) of each split and class."""
    labels, classes = dataset.targets, len(dataset.spec.classes)
    return np.stack([np.bincount(labels[split == part], minlength=classes) for part in range(len(SPLITS))])


def class_drift(dataset: Dataset, split: np.ndarray) -> str:
    """How far the classes' shares of the splits differ; empty where there are no classes."""
    if dataset.spec.task not in ("classification", "generation"):
        return ""
    counts = class_counts(dataset, split)
    whole = np.bincount(dataset.targets, minlength=counts.shape[1]) / len(dataset)
    drift = np.abs(counts / counts.sum(1, keepdims=True).clip(1) - whole).max()
    return f"; a class's share of a split differs from the whole's by {drift:.3f} at most"


def few_of_a_class(dataset: Dataset, split: np.ndarray) -> str:
    """A warning of the classes with next to no samples to be judged by; empty where there are none."""
    if not dataset.spec.classes:
        return ""
    counts = class_counts(dataset, split)
    found = [
        f"'{dataset.spec.classes[label]}' has {counts[part, label]} in {SPLITS[part]}"
        for label, part in np.argwhere(counts.T < FEW)
        if part
    ]
    if not found:
        return ""
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    given = dataset.spec.role("split") is not None
    remedy = "move some there in the column of data.split" if given else "raise prepare.val or prepare.test"
    return (
        f"prepare: warning: a class with fewer than {FEW} samples in a split is judged by chance: "
        f"{', '.join(found[:8])}{more}; add samples, or {remedy}"
    )


if __name__ == "__main__":
    main(run, "prepare")
