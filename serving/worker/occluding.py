"""What an explanation hides of an input of each modality, what it puts in its place, and how the scores are told.

A view takes an input apart into features; a mask (..., 1 where a feature is kept, 0 where it is hidden) makes a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serving.inputs.spec import DataSpec
from serving.inputs.text import TOKENIZER, decode_text
from serving.predictor import Predictor
from serving.worker.messages import Body

FINE = 4  # digits of an attribution that are told
SQUARES = 13  # of an image, down as across
STRETCHES = 24  # of a series
LARGEST_MAP = 128  # pixels of a map's side; a larger one is told in fewer


@dataclass(frozen=True)
class View:
    """An input as features that can be hidden.

    Args:
        shape: of a mask, without the batch.
        row: the canonical row that a mask leaves.
        tell: what an answer says of the scores, which have `shape`.
        baseline: in words, what stands in the place of what is hidden.
        window: what is hidden at once, a window of a mask; None hides one number of `groups` after the other.
        stride: from one window to the next.
        groups: of each place of a mask its feature's number.
    """

    shape: tuple[int, ...]
    row: Callable[[np.ndarray], np.ndarray]
    tell: Callable[[np.ndarray], dict[str, Any]]
    baseline: str
    window: tuple[int, ...] | None = None
    stride: tuple[int, ...] = ()
    groups: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def views_of(predictor: Predictor, body: Body) -> Callable[[int], View]:
    """The view of a request's body that is hidden in so many forward passes at most.

    Raises:
        BadInput: it cannot be decoded.
    """
    if predictor.spec.modality == "text":
        return partial(_text, predictor, body)
    row = predictor.decode(body)
    if predictor.spec.modality == "table":
        return partial(_table, predictor.spec, row, _means(predictor.folder))
    return partial({"image": _image, "series": _series}[predictor.spec.modality], predictor.spec, row)


def _digits(values: np.ndarray) -> list[Any]:
    found: list[Any] = np.vectorize(lambda value: float(f"{value:.{FINE}g}"), otypes=[float])(values).tolist()
    return found


def sliding(side: int, steps: int) -> tuple[int, int]:
    """A window and its stride that cover `side` places in `steps` at most, each place about twice.

    >>> sliding(28, 13), sliding(3, 13)
    ((4, 2), (1, 1))
    """
    if side <= steps:
        return 1, 1
    stride = math.ceil(side / (steps + 1))
    window = min(2 * stride, side)
    while 1 + math.ceil((side - window) / stride) > steps:
        stride += 1
        window = min(2 * stride, side)
    return window, stride


def _image(spec: DataSpec, image: np.ndarray, passes: int) -> View:
    """Squares of pixels, with the image's own mean colour in their place."""
    del spec
    height, width = image.shape[1:]
    across = min(SQUARES, math.isqrt(passes))
    (down, step), (right, stride) = sliding(height, across), sliding(width, across)
    mean = image.reshape(len(image), -1).mean(1).round().astype(image.dtype)[:, None, None]

    def tell(scores: np.ndarray) -> dict[str, Any]:
        block = math.ceil(max(scores.shape) / LARGEST_MAP)
        return {"size": [height, width], "block": block, "attributions": _digits(_pooled(scores, block))}

    return View(
        (height, width), lambda mask: np.where(mask > 0, image, mean), tell, "the image's mean colour",
        (down, right), (step, stride),
    )  # fmt: skip


def _pooled(scores: np.ndarray, block: int) -> np.ndarray:
    """Means over squares of `block` pixels; those at the border may be narrower."""
    down, across = (np.arange(0, side, block) for side in scores.shape)
    sums = np.add.reduceat(np.add.reduceat(scores, down, 0), across, 1)
    counts = np.add.reduceat(np.add.reduceat(np.ones(scores.shape), down, 0), across, 1)
    pooled: np.ndarray = sums / counts
    return pooled


def _means(folder: Path) -> tuple[float, ...]:
    """The means of numbers in training; nothing where the bundle does not say."""
    path = folder / "transform.json"
    return tuple(json.loads(path.read_text()).get("mean", ())) if path.exists() else ()


def _table(spec: DataSpec, row: np.ndarray, means: tuple[float, ...], passes: int) -> View:
    """One column after the other, with training's mean or an unknown category in its place."""
    assert spec.table is not None
    fields = (*spec.table.numbers, *spec.table.categories)
    hidden = np.zeros_like(row)
    known = len(means) == len(spec.table.numbers)
    hidden[: len(spec.table.numbers)] = means if known else np.nan
    names = [each.name for each in fields]

    def tell(scores: np.ndarray) -> dict[str, Any]:
        return {"attributions": dict(zip(names, _digits(scores), strict=True))}

    return View(
        row.shape, lambda mask: np.where(mask > 0, row, hidden), tell,
        f"{'the mean of training' if known else 'a missing value'}, an unknown category",
        groups=_grouped(len(row), passes),
    )  # fmt: skip


def _grouped(count: int, most: int) -> np.ndarray:
    """Places in so many runs of equal length."""
    return np.arange(count) // math.ceil(count / most)


def _series(spec: DataSpec, steps: np.ndarray, passes: int) -> View:
    """Stretches of one channel, with its mean over the series in their place."""
    assert spec.series is not None
    length, channels = steps.shape
    together = math.ceil(channels / passes)  # channels that are hidden at once
    window, stride = sliding(length, max(1, min(STRETCHES, passes // math.ceil(channels / together))))
    with np.errstate(invalid="ignore"):
        count = np.maximum((~np.isnan(steps)).sum(0), 1)
        mean = np.nansum(steps, 0) / count
    names = list(spec.series.channels)

    def tell(scores: np.ndarray) -> dict[str, Any]:
        return {"channels": names, "attributions": _digits(scores)}

    return View(
        steps.shape, lambda mask: np.where(mask > 0, steps, mean).astype(steps.dtype), tell,
        "the channel's mean over the series", (window, together), (stride, together),
    )  # fmt: skip


def _text(predictor: Predictor, body: Body, passes: int) -> View:
    """One word after the other, or a few where there are many, left out."""
    from tokenizers import Tokenizer

    spec = predictor.spec
    assert spec.text is not None
    text = decode_text(body, spec)
    tokenizer = Tokenizer.from_file(str(predictor.folder / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.enable_truncation(spec.text.max_tokens)
    coded = tokenizer.encode(text)
    tokens = np.array(coded.ids or [1], np.int32)
    owners = list(coded.word_ids) or [None]
    words = sorted({owner for owner in owners if owner is not None})
    spans = [_span(text, coded, word) for word in words]
    index = {word: at for at, word in enumerate(words)}
    places = np.array([-1 if owner is None else index[owner] for owner in owners])

    def row(mask: np.ndarray) -> np.ndarray:
        left = tokens[(places < 0) | (mask[places] > 0)] if len(words) else tokens
        return left if len(left) else np.array([1], np.int32)

    def tell(scores: np.ndarray) -> dict[str, Any]:
        told = [
            {"text": text[start:end], "start": start, "end": end, "score": score}
            for (start, end), score in zip(spans, _digits(scores)[: len(spans)], strict=True)
        ]
        return {"attributions": told}

    count = max(1, len(words))
    return View((count,), row, tell, "the text without it", groups=_grouped(count, passes))


def _span(text: str, coded: Any, word: int) -> tuple[int, int]:
    """Where a word lies in the text, without white space before it."""
    start, end = coded.word_to_chars(word)
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip() or inside), end
