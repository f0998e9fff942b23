"""Synthetic rows of a table's small classes, between real ones, through imbalanced-learn.

After Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique" (2002): SMOTE for numbers, SMOTENC where
there are categories too, SMOTEN where there is nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.dataset import Dataset, identities
from pipeline.core.params import UserError
from serving.inputs.spec import TableInput, Transform

NEIGHBOURS = 5  # of the same class, between which a synthetic row may lie


def synthesise(dataset: Dataset, transform: Transform, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic rows and their labels that bring each class to the size of the largest.

    A class of one sample gets none, as nothing lies between it.

    Raises:
        UserError: the data are no table with classes.
    """
    spec = dataset.spec
    if spec.table is None or not spec.classes:
        raise UserError(
            f"augment.oversample: 'smote' makes rows of tables with classes, and this is {spec.modality} "
            f"{spec.task}; for images with classes there is 'gan', and 'none' leaves all as it is"
        )
    return smote(np.array(dataset.inputs), dataset.targets, spec.table, transform, seed)


def completed(dataset: Dataset, rows: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """All columns of synthetic rows with their labels; their ids are those of their own content."""
    spec = dataset.spec
    made: dict[str, Any] = {spec.input.name: rows, spec.target.name: labels, "id": identities(rows)}
    for column in spec.columns:
        if column.name not in made:
            made[column.name] = aside(np.array(dataset.column(column.name)), column.role, len(rows))
    return made


def aside(given: np.ndarray, role: str, count: int) -> np.ndarray:
    """What synthetic rows hold in a column that no model sees: a group of their own, the latest time."""
    if role == "group":
        return (given.max() + 1 + np.arange(count)).astype(given.dtype)
    return np.full((count, *given.shape[1:]), given.max(axis=0), given.dtype)


def smote(
    rows: np.ndarray, labels: np.ndarray, table: TableInput, transform: Transform, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic rows (n, F + G) float32 and their labels (n,), for rows (N, F + G) and labels (N,).

    Numbers lie between those of neighbours; booleans, categories and what is missing are voted by neighbours.
    """
    counts = np.bincount(labels)
    wanted = {
        int(label): int(counts.max()) for label in np.flatnonzero((counts > 1) & (counts < counts.max()))
    }
    if not wanted:
        return rows[:0], labels[:0]
    numbers = len(table.numbers)
    scaled = (rows[:, :numbers] - np.array(transform.mean)) / np.array(transform.std)
    gaps = np.isnan(scaled)
    gappy = np.flatnonzero(gaps.any(axis=0))
    filled = np.where(gaps, 0.0, scaled)  # the mean
    voted = np.array([field.kind == "boolean" for field in table.numbers], bool)
    plain = np.flatnonzero(~voted)
    flags = np.flatnonzero(voted)
    votes = np.hstack([rows[:, flags], rows[:, numbers:], gaps[:, gappy]])
    neighbours = min(NEIGHBOURS, min(counts[label] for label in wanted) - 1)
    features = np.hstack([filled[:, plain], np.nan_to_num(votes, nan=0.0)])
    made, classes = sampler(len(plain), features.shape[1], wanted, neighbours, seed).fit_resample(
        features, labels
    )
    made, classes = made[len(rows) :], classes[len(rows) :]
    new = np.empty((len(made), rows.shape[1]), np.float32)
    new[:, plain] = made[:, : len(plain)] * np.array(transform.std)[plain] + np.array(transform.mean)[plain]
    ends = len(plain) + len(flags), len(plain) + len(flags) + rows.shape[1] - numbers
    new[:, flags] = made[:, len(plain) : ends[0]]
    new[:, numbers:] = made[:, ends[0] : ends[1]]
    for at, column in enumerate(gappy):
        new[made[:, ends[1] + at] > 0.5, column] = np.nan
    return new, classes.astype(np.int64)


def sampler(plain: int, features: int, wanted: dict[int, int], neighbours: int, seed: int) -> Any:
    """The sampler for `plain` numbers followed by what is voted, `features` in all."""
    from imblearn.over_sampling import SMOTE, SMOTEN, SMOTENC

    settings: dict[str, Any] = {
        "sampling_strategy": wanted, "k_neighbors": neighbours, "random_state": seed,
    }  # fmt: skip
    if plain == features:
        return SMOTE(**settings)
    if plain == 0:
        return SMOTEN(**settings)
    return SMOTENC(categorical_features=list(range(plain, features)), **settings)
