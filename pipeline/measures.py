"""What `validate` measures of every sample, by modality in `MEASURES`: in chunks, memory flat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.core.dataset import Dataset
from pipeline.duplicates import rows_at_once

Measured = tuple[dict[str, np.ndarray], float, float]  # measures (N,) float32 each, the content's extremes


def of_images(dataset: Dataset) -> Measured:
    """Brightness and contrast of images (N, C, H, W), in grey levels, 0 to 255."""
    parts, low, high = [], float("inf"), float("-inf")
    for rows in dataset.input_chunks(rows_at_once(dataset)):
        flat = rows.reshape(len(rows), -1)
        low, high = min(low, float(flat.min())), max(high, float(flat.max()))
        parts.append(np.stack([flat.mean(1, dtype=np.float32), flat.std(1, dtype=np.float32)]))
    brightness, contrast = np.concatenate(parts, axis=1)
    return {"brightness": brightness, "contrast": contrast}, low, high


def of_tables(dataset: Dataset) -> Measured:
    """How many cells of a row are missing."""
    parts, low, high = [], float("inf"), float("-inf")
    for rows in dataset.input_chunks():
        parts.append(np.isnan(rows).sum(1).astype(np.float32))
        low, high = (
            min(low, float(np.nanmin(rows, initial=np.inf))),
            max(high, float(np.nanmax(rows, initial=-np.inf))),
        )
    return {"missing cells": np.concatenate(parts)}, low, high


def of_ragged(dataset: Dataset) -> Measured:
    """The length of each series in steps, or of each text in bytes."""
    rows = dataset.inputs
    values = rows.values
    return {"length": rows.lengths.astype(np.float32)}, float(np.nanmin(values)), float(np.nanmax(values))


MEASURES: dict[str, Callable[[Dataset], Measured]] = {
    "image": of_images, "table": of_tables, "series": of_ragged, "text": of_ragged,
}  # fmt: skip
