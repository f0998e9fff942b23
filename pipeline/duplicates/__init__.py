"""Samples that are there twice, exactly or nearly, by modality in `FINDERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.core.dataset import Dataset
from pipeline.duplicates import images, series, tables, texts
from pipeline.duplicates.search import Duplicates

if TYPE_CHECKING:
    from pipeline.limits import Validate


def of_images(dataset: Dataset, limits: Validate) -> Duplicates:
    """Images that show the same, however bright."""
    least, most = limits.near_similarity, limits.max_compared
    return images.find_duplicates(dataset, least, most, limits.max_candidates)


def of_tables(dataset: Dataset, limits: Validate) -> Duplicates:
    """Rows equal up to tiny differences of numbers."""
    return tables.find_duplicates(dataset, limits.near_cells, limits.max_candidates)


def of_series(dataset: Dataset, limits: Validate) -> Duplicates:
    """Series of nearly the same course, level and length."""
    least, most = limits.near_series, limits.max_compared
    return series.find_duplicates(dataset, least, most, limits.max_candidates)


def of_texts(dataset: Dataset, limits: Validate) -> Duplicates:
    """Texts that share nearly all of their wording."""
    return texts.find_duplicates(dataset, limits.near_text, limits.max_candidates)


FINDERS: dict[str, Callable[[Dataset, Validate], Duplicates]] = {
    "image": of_images, "table": of_tables, "series": of_series, "text": of_texts,
}  # fmt: skip
