"""Labels that may be wrong: each judged by a quick model that was trained without it (confident learning).

Northcutt, Jiang and Chuang 2021, as `cleanlab` has it. scikit-learn and cleanlab are loaded only where a run asks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.checks.findings import Suspects
from pipeline.core.dataset import Dataset
from pipeline.duplicates.images import SIDE, pooled
from pipeline.duplicates.series import WIDTH, moments, standard
from pipeline.facts.measures import rows_at_once, text_of

FOLDS = 5
MOST = 20_000  # samples judged, evenly spread; a quick model is not quick beyond
CATEGORIES = 50  # of a column, that the quick model is told of
NEIGHBOURS = 10


def features(dataset: Dataset, rows: np.ndarray) -> Any:
    """What the quick model sees of some sorted `rows`: (n, F), dense, or sparse for texts."""
    spec, inputs = dataset.spec, dataset.inputs
    if spec.modality == "image":
        size = rows_at_once(dataset)
        small = [pooled(inputs[rows[at : at + size]], SIDE) for at in range(0, len(rows), size)]
        return np.concatenate(small).reshape(len(rows), -1) / 255
    if spec.modality == "series":
        mean, deviation = moments(dataset)
        steps = int(np.clip(WIDTH // len(mean), 8, 64))
        return standard(inputs[rows], steps, mean, deviation).reshape(len(rows), -1)
    if spec.modality == "text":
        from sklearn.feature_extraction.text import HashingVectorizer

        texts = [text_of(inputs[int(row)]) for row in rows]
        return HashingVectorizer(n_features=1 << 18, ngram_range=(1, 2), sublinear_tf=True).transform(texts)
    assert spec.table is not None
    return of_table(np.array(inputs[rows]), len(spec.table.numbers))


def of_table(rows: np.ndarray, numbers: int) -> np.ndarray:
    """Numbers in deviations from their mean, which cells are missing, and a column a frequent category."""
    values = rows[:, :numbers].astype(np.float64)
    missing = np.isnan(values)
    parts = [missing.astype(np.float64)]
    counts = (~missing).sum(axis=0).clip(1)
    values = np.where(missing, 0, values - np.nansum(values, axis=0) / counts)
    values = np.where(missing, 0, values)
    deviation = np.sqrt((values**2).sum(axis=0) / counts)
    parts.append(values / np.where(deviation > 0, deviation, 1))
    for codes in rows[:, numbers:].T:
        held, counts = np.unique(codes, return_counts=True)
        frequent = held[np.argsort(-counts, kind="stable")[:CATEGORIES]]
        parts.append((codes[:, None] == frequent).astype(np.float64))
    return np.concatenate(parts, axis=1)


def quick_model(modality: str) -> Any:
    """A classifier of seconds: what lies near in images and series, a linear one for tables and texts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    if modality in ("image", "series"):
        return KNeighborsClassifier(NEIGHBOURS, weights="distance")
    return LogisticRegression(max_iter=500, C=1.0 if modality == "table" else 10.0)


def suspects(dataset: Dataset, labels: np.ndarray, groups: np.ndarray) -> Suspects | None:
    """Samples whose label looks wrong; copies (`groups`) are never judged by each other.

    None where a class has too few samples for the folds.
    """
    from cleanlab.filter import find_label_issues
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    rows = np.arange(len(labels))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))
    counts = np.bincount(labels[rows], minlength=len(dataset.spec.classes))
    if len(counts) < 2 or counts.min() < FOLDS:
        return None
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    chance = cross_val_predict(
        quick_model(dataset.spec.modality), features(dataset, rows), labels[rows], groups=groups[rows],
        cv=folds, method="predict_proba",
    )  # fmt: skip
    found = find_label_issues(labels[rows], chance, return_indices_ranked_by="self_confidence", n_jobs=1)
    likely = chance[found].argmax(axis=1)
    return Suspects(rows[found], likely, chance[found, likely])
