"""What is fitted on the training split, by modality in `FITS`: in one pass, chunk by chunk, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.transforms.base import Fitted
from pipeline.transforms.scaled import ScaledImages, ScaledTable
from pipeline.transforms.series import LevelledSeries, ScaledSeries
from pipeline.transforms.tokens import PretrainedTokens, TrainedTokens
from serving.inputs.spec import DataSpec

Scaling = Literal["split", "sample"]
Tokenizer = Literal["trained", "pretrained"]
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
