"""From a raw request to what the network takes: the one way that `ingest`, `evaluate` and every server go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from serving.inputs import generation, image, series, table, text
from serving.inputs.body import BadInput
from serving.inputs.spec import DataSpec

__all__ = ["BadInput", "Decoder", "decoder"]
Body = bytes | dict[str, Any]
Decoder = Callable[[Body], np.ndarray]
PLAIN: dict[str, Callable[[Body, DataSpec], np.ndarray]] = {
    "image": image.decode, "table": table.decode, "series": series.decode,
}  # fmt: skip


def decoder(spec: DataSpec, folder: Path) -> Decoder:
    """The decoder of request bodies for a spec; `folder` holds the model's parameters, and its tokenizer if it has one.

    It gives one row of the input column, and raises `BadInput` for a body that is not of the model's kind.
    """
    if spec.task == "generation":
        latent = generation.latent_of(folder)
        return lambda body: generation.decode(body, spec, latent)
    if spec.modality == "text":
        assert spec.text is not None
        encode = text.tokens_of(folder, spec.text)
        return lambda body: encode([text.decode_text(body, spec)])[0]
    plain = PLAIN[spec.modality]
    return lambda body: plain(body, spec)
