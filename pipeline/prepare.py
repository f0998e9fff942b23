"""Stage `prepare`: what does the model see? A stable, stratified split and a transform fitted on train."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from pipeline.core.dataset import Dataset, DatasetWriter
from pipeline.core.params import Section, UserError, section
from pipeline.core.project import Seed
from pipeline.core.stage import DATA, main, replacing
from serving.inputs.spec import Transform, write_json

INPUT = DATA / "ingest"
GROUPS = DATA / "validate" / "groups.npy"
OUTPUT = DATA / "prepare"
SPLITS = ("train", "val", "test")


class Prepare(Section):
    """The `prepare` section."""

    val: float = Field(0.15, gt=0, lt=0.9, description="Share of samples for validation (choosing).")
    test: float = Field(0.15, gt=0, lt=0.9, description="Share of samples for the test (reporting, once).")

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


class ChannelMoments:
    """Mean and standard deviation of each channel, accumulated over chunks in float64."""

    def __init__(self, channels: int) -> None:
        self.count, self.sum, self.squares = 0, np.zeros(channels), np.zeros(channels)

    def update(self, images: np.ndarray) -> None:
        """Add images of shape (n, C, H, W)."""
        values = images.astype(np.float64)
        self.count += values.shape[0] * values.shape[2] * values.shape[3]
        self.sum += values.sum(axis=(0, 2, 3))
        self.squares += np.square(values).sum(axis=(0, 2, 3))

    def transform(self) -> Transform:
        """The normalisation; a constant channel gets a deviation of 1."""
        mean = self.sum / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0))
        return Transform(mean=tuple(mean.tolist()), std=tuple(np.where(std > 1e-6, std, 1.0).tolist()))


def write_splits(dataset: Dataset, split: np.ndarray, folder: Path) -> Transform:
    """Write one data set folder a split, in one pass, and return the transform fitted on train."""
    moments = ChannelMoments(dataset.spec.input_shape[0])
    writers = [DatasetWriter(folder / name, dataset.spec) for name in SPLITS]
    start = 0
    for chunk in dataset.chunks():
        mine = split[start : start + len(chunk["id"])]
        start += len(mine)
        for number, writer in enumerate(writers):
            writer.append({name: rows[mine == number] for name, rows in chunk.items()})
        moments.update(chunk[dataset.spec.input.name][mine == 0])
    for writer in writers:
        writer.__exit__(None, None, None)
    return moments.transform()


def run() -> None:
    """Run the stage."""
    settings = section("prepare", Prepare)
    seed = section("seed", Seed)
    dataset = Dataset(INPUT)
    labels, groups = np.array(dataset.column("label")), np.load(GROUPS, allow_pickle=False)
    split = assign(np.array(dataset.column("id")), labels, groups, settings, seed, dataset.spec.classes)
    with replacing(OUTPUT) as folder:
        transform = write_splits(dataset, split, folder)
        write_json(folder / "transform.json", transform)
    counts = np.bincount(split, minlength=3)
    drift = max(
        abs((split[labels == label] == number).mean() - counts[number] / len(split))
        for label in np.unique(labels)
        for number in range(3)
    )
    shares = ", ".join(f"{name} {count}" for name, count in zip(SPLITS, counts, strict=True))
    print(f"prepare: {shares}; a class's share of a split differs from the whole's by {drift:.3f} at most")


if __name__ == "__main__":
    main(run, "prepare")
