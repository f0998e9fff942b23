"""Words that many texts hold alike: signatures, headers, notes of the program that sent them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pipeline.checks.findings import Phrase
from pipeline.core.dataset import Dataset
from pipeline.facts.measures import WORD, text_of

LOOKED = 5000  # texts, evenly spread, that are searched
WORDS = 5  # words in a row that a phrase has at least


def runs(words: list[str]) -> set[tuple[str, ...]]:
    """All runs of `WORDS` words."""
    return {tuple(words[at : at + WORDS]) for at in range(len(words) - WORDS + 1)}


def common_phrase(dataset: Dataset, distinct: np.ndarray) -> Phrase | None:
    """The words that most of the `distinct` texts (rows) hold alike; None where no two do."""
    rows = distinct[:: -(-len(distinct) // LOOKED)]
    texts, counts = dataset.inputs, Counter[tuple[str, ...]]()
    split = [[word.lower() for word in WORD.findall(text_of(texts[int(row)]))] for row in rows]
    for words in split:
        counts.update(runs(words))
    if not counts or (most := max(counts.values())) < 2:
        return None
    first = min(run for run, count in counts.items() if count == most)
    holding = [at for at, words in enumerate(split) if first in runs(words)]
    return Phrase(" ".join(grown(first, [split[at] for at in holding])), rows[holding], len(rows))


def grown(run: tuple[str, ...], texts: list[list[str]]) -> list[str]:
    """A run with the words around it that all the texts have in common.

    >>> grown(("b",), [["x", "a", "b", "c"], ["a", "b", "c"]])
    ['a', 'b', 'c']
    """
    places = [
        next(at for at in range(len(words)) if tuple(words[at : at + len(run)]) == run) for words in texts
    ]
    before, after = 0, len(run)

    def agree(step: int) -> bool:
        inside = all(0 <= at + step < len(words) for words, at in zip(texts, places, strict=True))
        return inside and len({words[at + step] for words, at in zip(texts, places, strict=True)}) == 1

    while agree(-before - 1):
        before += 1
    while agree(after):
        after += 1
    return texts[0][places[0] - before : places[0] + after]
