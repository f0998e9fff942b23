"""How samples are told apart: by the content of groups, by time, and what keeps windows that overlap apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.params import UserError

if TYPE_CHECKING:
    from pipeline.prepare import Prepare

PARTS = 3  # 0 train, 1 val, 2 test; a sample of none has this number


def position(identity: bytes, seed: int) -> float:
    """Where a sample stands in [0, 1): a seeded hash of its own content and of nothing else."""
    digest = hashlib.blake2b(identity, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def places(ids: np.ndarray, groups: np.ndarray, seed: int, purpose: bytes = b"") -> np.ndarray:
    """The position (G,) of each group, which stands where its smallest id stands; another purpose, other positions."""
    order = np.argsort(ids, kind="stable")
    _, first = np.unique(groups[order], return_index=True)
    return np.array([position(purpose + bytes(identity), seed) for identity in ids[order[first]]])


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
    _, where = np.unique(groups, return_inverse=True)
    place = places(ids, groups, seed)
    edges = np.array([1 - settings.val - settings.test, 1 - settings.test])
    split = np.searchsorted(edges, place, side="right").astype(np.uint8)
    present = {int(label): np.unique(where[labels == label]) for label in np.unique(labels)}
    for label, mine in present.items():
        if len(mine) < PARTS:
            name = classes[label] if classes else label
            raise UserError(
                f"class '{name}' has {len(mine)} distinct samples; train, val and test need at least one each"
            )
    for _ in range(PARTS):  # a group that holds several classes may undo what was done for another
        moved = [_fill(split, place, mine, edges) for mine in present.values()]
        if not any(moved):
            break
    return split[where]


def _fill(split: np.ndarray, place: np.ndarray, mine: np.ndarray, edges: np.ndarray) -> bool:
    """Move groups so that every split holds one of `mine`, in place; True where one moved."""
    centre = np.array([edges[0] / 2, edges.mean(), (1 + edges[1]) / 2])
    missing = [empty for empty in (2, 1, 0) if not (split[mine] == empty).any()]
    for empty in missing:
        counts = np.bincount(split[mine], minlength=PARTS)
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


def latest(times: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The time (N,) of the last sample of each one's group."""
    _, where = np.unique(groups, return_inverse=True)
    found = np.full(where.max() + 1, -np.inf)
    np.maximum.at(found, where, times)
    return found[where]


def by_time(times: np.ndarray, groups: np.ndarray, settings: Prepare) -> np.ndarray:
    """Split numbers (N,) uint8 by time: the latest are the test, those before them validation.

    A group goes where its latest sample goes, so that nothing of the future is seen in training.
    """
    place = latest(times, groups)
    edges = np.quantile(place, [1 - settings.val - settings.test, 1 - settings.test], method="lower")
    return np.searchsorted(edges, place, side="left").astype(np.uint8)


def apart(split: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The split without samples, now 3, whose targets begin before those of an earlier split have ended."""
    split = split.copy()
    for number in (1, 2):
        edge = end[split < number].max(initial=-np.inf)
        split[(split == number) & (begin <= edge)] = PARTS
    return split


def judged_alone(split: np.ndarray, ids: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The split with no anomaly in training: those that fell there are shared out between val and test."""
    moved = np.flatnonzero((split == 0) & (labels == 1))
    split[moved] = [1 + (position(bytes(identity), seed + 1) < 0.5) for identity in ids[moved]]
    return split


def straddling(groups: np.ndarray, split: np.ndarray) -> int:
    """How many groups have samples in several splits."""
    pairs = np.unique(np.stack([groups, split.astype(np.int64)]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())
