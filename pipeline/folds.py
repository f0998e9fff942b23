"""Folds of cross-validation over what is not test: who trains and who validates in each.

Folds are dealt and not drawn: within each class, groups in the order of a seeded hash of their content fill one fold
after the other, so that sizes and classes are even to one sample where groups allow it. Where samples are added, those
near the edges of folds alone move. (scikit-learn's splitters go by the order of the rows, so that one more row
reshuffles all; by a hash alone, as the test split is found, folds of few samples would be uneven.)
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.core.dataset import Dataset
from pipeline.core.params import Section, UserError
from pipeline.splits import PARTS, apart, latest, places
from serving.inputs.spec import DataSpec

Scheme = Literal["plain", "stratified", "grouped", "time"]


class Folds(Section):
    """Cross-validation over what is not test; 0 folds make none."""

    number: int = Field(
        0,
        ge=0,
        le=50,
        description="Folds, 2 at least; each has its own transform, fitted on its training part.",
    )
    scheme: Literal["auto", "plain", "stratified", "grouped", "time"] = Field(
        "auto",
        description="How samples fall into folds; 'auto': by time where the split is, stratified where there are "
        "classes, else plain. Copies and groups are never divided; 'grouped' makes sure that data.group names some.",
    )
    inner: int = Field(0, ge=0, le=50, description="Folds within each fold, 2 at least, for tune.nested.")

    @model_validator(mode="after")
    def _two_at_least(self) -> Folds:
        for name in ("number", "inner"):
            if getattr(self, name) == 1:
                raise ValueError(
                    f"{name} is 1, which leaves nothing to hold out against; 0 makes none, 2 are the fewest"
                )
        if self.inner and not self.number:
            raise ValueError(
                f"inner is {self.inner}, and there are no folds for them to lie in; set number, or inner to 0"
            )
        return self


def scheme_of(spec: DataSpec, folds: Folds) -> Scheme:
    """The scheme that the parameters mean for these data.

    Raises:
        UserError: the data have not what it goes by, or allow no other than time.
    """
    if spec.role("begin") is not None:
        if folds.scheme not in ("auto", "time"):
            raise UserError(
                f"prepare.folds.scheme: '{folds.scheme}' would train on windows that overlap with those to be "
                "forecast; set it to 'time'"
            )
        return "time"
    if folds.scheme == "auto":
        by_time = spec.role("time") is not None and spec.role("split") is None
        return "time" if by_time else "stratified" if spec.classes else "plain"
    wanted = {
        "time": (spec.role("time") is not None, "a column of times, which data.time names"),
        "grouped": (spec.role("group") is not None, "a column of groups, which data.group names"),
        "stratified": (bool(spec.classes), f"classes, and the task is {spec.task}"),
    }
    there, what = wanted.get(folds.scheme, (True, ""))
    if not there:
        raise UserError(f"prepare.folds.scheme: '{folds.scheme}' needs {what}; set it to 'auto'")
    return folds.scheme


def folds_of(
    dataset: Dataset,
    groups: np.ndarray,
    among: np.ndarray,
    number: int,
    scheme: Scheme,
    seed: int,
    of: str = "",
) -> list[np.ndarray]:
    """Of each fold the part (N,) uint8 of every sample: 0 train, 1 val, 3 neither; none but those `among` (N,) has one.

    An anomaly is in no training part. `of` tells in messages what the folds are of.

    Raises:
        UserError: there are too few groups or times, or a class would be missing from a training part.
    """
    spec, kept = dataset.spec, np.flatnonzero(among)
    labels = dataset.targets if spec.classes else np.zeros(len(dataset), np.int64)
    if scheme == "time":
        parts = _in_time(dataset, groups[kept], kept, number)
    else:
        within = labels[kept] if scheme == "stratified" else np.zeros(len(kept), np.int64)
        ids = np.array(dataset.column("id"))[kept]
        where = dealt(ids, within, groups[kept], number, seed)
        parts = [(where == fold).astype(np.uint8) for fold in range(number)]
    found = []
    for fold, part in enumerate(parts):
        if spec.task == "anomaly":
            part[(part == 0) & (labels[kept] == 1)] = PARTS
        _check(part, labels[kept], spec, f"{of}fold {fold}", number)
        whole = np.full(len(dataset), PARTS, np.uint8)
        whole[kept] = part
        found.append(whole)
    return found


def _in_time(dataset: Dataset, groups: np.ndarray, kept: np.ndarray, number: int) -> list[np.ndarray]:
    """An expanding window: of blocks equal in samples, each but the first validates what trained on all before it."""
    column, begin = dataset.spec.role("time"), dataset.spec.role("begin")
    assert column is not None
    times = np.array(dataset.column(column.name))[kept]
    place = times if begin is not None else latest(times, groups)  # windows overlap: time alone decides
    edges = np.quantile(place, np.arange(1, number + 1) / (number + 1), method="lower")
    block = np.searchsorted(edges, place, side="left")
    parts = [
        np.where(block <= fold, 0, np.where(block == fold + 1, 1, PARTS)).astype(np.uint8)
        for fold in range(number)
    ]
    if begin is None:
        return parts
    begins = np.array(dataset.column(begin.name))[kept]
    return [apart(part, begins, times) for part in parts]


def _check(part: np.ndarray, labels: np.ndarray, spec: DataSpec, name: str, number: int) -> None:
    """Refuse a fold from which nothing can be learnt or told."""
    for value, what in ((0, "to train on"), (1, "to validate on")):
        if not ((part == value) & ((labels == 0) | (spec.task != "anomaly"))).any():
            raise UserError(
                f"prepare.folds: {name} of {number} has no {'normal ' * (spec.task == 'anomaly')}samples {what}; "
                "set fewer folds, or see data.group and data.time"
            )
    if spec.task in ("classification", "generation"):
        gone = np.setdiff1d(labels, labels[part == 0])
        if len(gone):
            names = ", ".join(spec.classes[label] for label in gone)
            raise UserError(
                f"prepare.folds: {name} of {number} has no training sample of {names}: no model can learn them; "
                "set fewer folds, or the scheme to 'stratified'"
            )


def dealt(ids: np.ndarray, labels: np.ndarray, groups: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Fold numbers (N,) from ids (N,), labels (N,) and groups (N,): every group whole, every class as even as can be.

    A group of several classes goes where these are rarest, the largest groups first; then groups of one class fill up.
    """
    _, where, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rank = places(ids, groups, seed, b"fold")
    least, most = np.full(len(sizes), len(counts)), np.full(len(sizes), -1)
    np.minimum.at(least, where, labels)
    np.maximum.at(most, where, labels)
    held = np.zeros((number, len(counts)))  # samples of each class that a fold has
    fold = np.empty(len(sizes), np.int64)
    members, ends = np.argsort(where, kind="stable"), np.cumsum(sizes)
    several = np.flatnonzero(least != most)
    for group in several[np.lexsort((rank[several], -sizes[several]))]:
        own, many = np.unique(labels[members[ends[group] - sizes[group] : ends[group]]], return_counts=True)
        crowd = held[:, own] @ (many / counts[own].astype(float) ** 2)
        fold[group] = np.lexsort((held.sum(axis=1), crowd))[0]
        held[fold[group], own] += many
    single = np.flatnonzero(least == most)
    kinds, of = np.unique(np.stack([-sizes[single], least[single]]), axis=1, return_inverse=True)
    for kind, (size, label) in enumerate(zip(-kinds[0], kinds[1], strict=True)):
        mine = single[of.ravel() == kind]
        quota = levelled(held[:, label], held.sum(axis=1), int(size), len(mine))
        fold[mine[np.argsort(rank[mine])]] = np.repeat(np.arange(number), quota)
        held[:, label] += size * quota
    return fold[where]


def levelled(held: np.ndarray, all_: np.ndarray, size: int, many: int) -> np.ndarray:
    """How many (K,) of `many` groups of `size` samples each fold gets, that holds so many of their class, and in all.

    >>> levelled(np.array([4, 0, 1]), np.array([9, 9, 9]), 1, 5).tolist()
    [0, 3, 2]
    """
    takes = np.ones(len(held), bool)
    while True:  # a fold above the level takes none, which lowers the level of the others
        level = (held[takes].sum() + size * many) / takes.sum()
        above = takes & (held > level)
        if not above.any():
            break
        takes &= ~above
    quota = np.where(takes, np.floor((level - held) / size), 0).astype(np.int64)
    for _ in range(many - int(quota.sum())):
        full = held + size * quota
        quota[np.lexsort((all_ + size * quota, full))[0]] += 1
    return quota
