"""Texts that are there twice: nearly the same wording, found by MinHash (Broder 1997) in bands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.core.dataset import CHUNK, Dataset
from pipeline.duplicates.search import Duplicates, exact_rows, join
from pipeline.facts.measures import WORD, text_of

LENGTH = 8  # characters of a shingle, which spans a word or two in any language
KEPT = 512  # shingles of a text, those of the smallest hashes, that its signature is made of
HASHES, BAND = 32, 4  # of a signature; texts that share a band of four are candidates
NEIGHBOURS = 3  # texts of one band that a text is compared with
UNLIKE = 0.3  # a signature may tell so much less than the likeness it estimates


def shingles(text: str) -> np.ndarray:
    """The hashes (n,) uint64, sorted, of all runs of `LENGTH` characters, case and punctuation aside.

    >>> len(shingles("Nearly, the same!")), bool((shingles("A b") == shingles("a  b.")).all())
    (8, True)
    """
    plain = " ".join(WORD.findall(text.lower())) or text
    codes = np.frombuffer(plain.ljust(LENGTH).encode("utf-32-le"), np.uint32).astype(np.uint64)
    found = np.zeros(len(codes) - LENGTH + 1, np.uint64)
    for at in range(LENGTH):
        found = found * np.uint64(1_000_003) + codes[at : at + len(found)]
    return np.unique(mixed(found))


def mixed(values: np.ndarray) -> np.ndarray:
    """Hashes (n,) uint64 whose bits depend on all bits of the values (splitmix64, Steele 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: np.ndarray = values ^ (values >> np.uint64(31))
    return out


def signatures(dataset: Dataset) -> np.ndarray:
    """The MinHash signature of every text, (N, HASHES) uint32."""
    factors = np.random.default_rng(0).integers(1, 2**63, HASHES, dtype=np.uint64) | np.uint64(1)
    found = np.empty((len(dataset), HASHES), np.uint32)
    start = 0
    for rows in dataset.input_chunks():
        for at in range(len(rows)):
            hashes = shingles(text_of(rows[at]))[:KEPT]
            found[start + at] = ((hashes[:, None] * factors) >> np.uint64(32)).min(axis=0)
        start += len(rows)
    return found


def banded(rows: np.ndarray, signed: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of `rows` (n, 2), lower first, whose signatures agree in a band and are much alike in all."""
    for band in range(0, HASHES, BAND):
        rolled = np.roll(signed[rows], -band, axis=1)  # the band first, what follows orders its texts
        order = np.lexsort(rolled[:, : 2 * BAND].T[::-1])
        mine, ordered = rows[order], rolled[order]
        for step in range(1, min(NEIGHBOURS, len(rows) - 1) + 1):
            near = (ordered[step:, :BAND] == ordered[:-step, :BAND]).all(axis=1)
            first, second = mine[:-step][near], mine[step:][near]
            yield np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)


def find_duplicates(dataset: Dataset, least: float, max_candidates: int) -> Duplicates:
    """Group exact and near copies of a data set of texts; time grows with their number.

    Args:
        dataset: texts as UTF-8 bytes and a column of role `id`.
        least: share of the shingles of two texts that they have in common, from which they are near copies.
        max_candidates: pairs verified at most.
    """
    exact, texts = exact_rows(dataset), dataset.inputs
    signed = signatures(dataset)

    def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        found = (signed[one] == signed[other]).mean(axis=1)
        for at in np.flatnonzero(found >= least - UNLIKE):
            first, second = (shingles(text_of(texts[int(row[at])])) for row in (one, other))
            shared = len(np.intersect1d(first, second, assume_unique=True))
            found[at] = shared / (len(first) + len(second) - shared)
        return found.astype(np.float32)

    return join(exact, banded(np.unique(exact), signed), similarity, least, max_candidates, CHUNK)
