"""Stage `prepare`: what does the model see? A stable, stratified split and a transform fitted on train."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.core.dataset import Dataset, DatasetWriter
from pipeline.core.params import Section, UserError, section
from pipeline.core.project import Seed
from pipeline.core.stage import DATA, main, replacing
from pipeline.transforms import Scaling, Tokenizer, fit
from serving.inputs.spec import write_json

INPUT = DATA / "ingest"
GROUPS = DATA / "validate" / "groups.npy"
OUTPUT = DATA / "prepare"
SPLITS = ("train", "val", "test")


class Folds(Section):
    """Cross-validation over what is not test; 0 folds make none."""

    number: int = Field(
        0, ge=0, le=50, description="Folds; each has its own transform, fitted on its training part."
    )
    scheme: Literal["auto", "plain", "stratified", "grouped", "time"] = Field(
        "auto",
        description="How samples fall into folds; 'auto': by time where the split is, by groups, else stratified.",
    )
    inner: int = Field(0, ge=0, le=50, description="Folds within each fold, for tune.nested.")


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


def position(identity: bytes, seed: int) -> float:
    """Where a sample stands in [0, 1): a seeded hash of its own content and of nothing else."""
    digest = hashlib.blake2b(identity, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def assign(
    ids: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    settings: Prepare,
    seed: int,
    classes: Sequence[str] = (),
) -> np.ndarray:
    """Split numbers (N,) uint8, 0 train, 1 val, 2 test, from ids (N,), labels (N,) and groups (N,).

    A sample's split depends on the content of its group and the seed alone, so it keeps its split when
    others are added. Each class is hashed alike, which stratifies in expectation: a split that were both
    exactly stratified and independent of the other samples cannot exist. Where a class would have no sample
    in a split, its group nearest to that split's middle moves there; only such classes may shift later.

    Raises:
        UserError: a class has fewer than three distinct groups, so that no split can hold it.
    """
    order = np.argsort(ids, kind="stable")
    _, first = np.unique(groups[order], return_index=True)  # a group stands where its smallest id stands
    _, where = np.unique(groups, return_inverse=True)
    place = np.array([position(bytes(identity), seed) for identity in ids[order[first]]])
    edges = np.array([1 - settings.val - settings.test, 1 - settings.test])
    split = np.searchsorted(edges, place, side="right").astype(np.uint8)
    present = {int(label): np.unique(where[labels == label]) for label in np.unique(labels)}
    for label, mine in present.items():
        if len(mine) < len(SPLITS):
            name = classes[label] if classes else label
            raise UserError(
                f"class '{name}' has {len(mine)} distinct samples; train, val and test need at least one each"
            )
    for _ in range(len(SPLITS)):  # a group that holds several classes may undo what was done for another
        moved = [_fill(split, place, mine, edges) for mine in present.values()]
        if not any(moved):
            break
    return split[where]


def _fill(split: np.ndarray, place: np.ndarray, mine: np.ndarray, edges: np.ndarray) -> bool:
    """Move groups so that every split holds one of `mine`, in place; True where one moved."""
    centre = np.array([edges[0] / 2, edges.mean(), (1 + edges[1]) / 2])
    missing = [empty for empty in (2, 1, 0) if not (split[mine] == empty).any()]
    for empty in missing:
        counts = np.bincount(split[mine], minlength=len(SPLITS))
        spare = mine[counts[split[mine]] > 1]
        split[spare[np.abs(place[spare] - centre[empty]).argmin()]] = empty
    return bool(missing)


def merged(groups: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Groups (N,) that hold together what either of two groupings holds together."""
    while True:
        joined = groups
        for by in (other, groups):
            _, where = np.unique(by, return_inverse=True)
            least = np.full(where.max() + 1, np.iinfo(np.int64).max)
            np.minimum.at(least, where, joined)
            joined = least[where]
        if np.array_equal(joined, groups):
            return joined
        groups = joined


def by_time(times: np.ndarray, groups: np.ndarray, settings: Prepare) -> np.ndarray:
    """Split numbers (N,) uint8 by time: the latest are the test, those before them validation.

    A group goes where its latest sample goes, so that nothing of the future is seen in training.
    """
    _, where = np.unique(groups, return_inverse=True)
    latest = np.full(where.max() + 1, -np.inf)
    np.maximum.at(latest, where, times)
    place = latest[where]
    edges = np.quantile(place, [1 - settings.val - settings.test, 1 - settings.test], method="lower")
    return np.searchsorted(edges, place, side="left").astype(np.uint8)


def splits_of(dataset: Dataset, settings: Prepare, seed: int) -> np.ndarray:
    """Split numbers (N,) uint8: as a column says, by time, or by the content of groups.

    Raises:
        UserError: a split that is given or cut by time has no samples, or a class has too few.
    """
    groups = np.load(GROUPS, allow_pickle=False)
    if (column := dataset.spec.role("group")) is not None:
        groups = merged(groups, np.array(dataset.column(column.name)))
    if (column := dataset.spec.role("split")) is not None:
        split = np.array(dataset.column(column.name))
        if straddling := _straddling(groups, split):
            print(f"prepare: {straddling} groups of copies lie in several of the given splits")
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


def apart(split: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The split without samples, now 3, whose targets begin before those of an earlier split have ended."""
    split = split.copy()
    for number in (1, 2):
        edge = end[split < number].max(initial=-np.inf)
        split[(split == number) & (begin <= edge)] = len(SPLITS)
    return split


def judged_alone(split: np.ndarray, ids: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The split with no anomaly in training: those that fell there are shared out between val and test."""
    moved = np.flatnonzero((split == 0) & (labels == 1))
    split[moved] = [1 + (position(bytes(identity), seed + 1) < 0.5) for identity in ids[moved]]
    return split


def _straddling(groups: np.ndarray, split: np.ndarray) -> int:
    """How many groups have samples in several splits."""
    pairs = np.unique(np.stack([groups, split.astype(np.int64)]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def write_splits(
    dataset: Dataset,
    split: np.ndarray,
    folder: Path,
    tokenizer: Tokenizer = "trained",
    scaling: Scaling = "split",
) -> None:
    """Fit on train, then write the transform and one data set folder a split."""
    (folder / "transform").mkdir(parents=True)
    fitted = fit(dataset, split == 0, folder / "transform", tokenizer, scaling)
    write_json(folder / "transform" / "transform.json", fitted.transform)
    writers = [DatasetWriter(folder / name, fitted.spec) for name in SPLITS]
    start = 0
    for chunk in dataset.chunks():
        mine = split[start : start + len(chunk["id"])]
        start += len(mine)
        chunk = fitted.encode(chunk)
        for number, writer in enumerate(writers):
            writer.append({name: rows[mine == number] for name, rows in chunk.items()})
    for writer in writers:
        writer.__exit__(None, None, None)


def run() -> None:
    """Run the stage."""
    settings = section("prepare", Prepare)
    seed = section("seed", Seed)
    dataset = Dataset(INPUT)
    split = splits_of(dataset, settings, seed)
    with replacing(OUTPUT) as folder:
        write_splits(dataset, split, folder, settings.tokenizer, settings.scaling)
    counts = np.bincount(split, minlength=3)[:3]
    shares = ", ".join(f"{name} {count}" for name, count in zip(SPLITS, counts, strict=True))
    print(f"prepare: {shares}{class_drift(dataset, split)}")


def class_drift(dataset: Dataset, split: np.ndarray) -> str:
    """How far the classes' shares of the splits differ; empty where there are no classes."""
    if dataset.spec.task not in ("classification", "generation"):
        return ""
    counts, labels = np.bincount(split, minlength=3), dataset.targets
    drift = max(
        abs((split[labels == label] == number).mean() - counts[number] / len(split))
        for label in np.unique(labels)
        for number in range(3)
    )
    return f"; a class's share of a split differs from the whole's by {drift:.3f} at most"


if __name__ == "__main__":
    main(run, "prepare")
