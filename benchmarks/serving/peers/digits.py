"""What every peer does besides serving: the least code that decodes a PNG with the same checks and answers from ONNX.

Peers run in environments of their own, so this imports nothing of the project.
"""

from __future__ import annotations

import io
import os
import uuid
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

SIDE, LARGEST, CLASSES = 28, 4096, "0123456789"


class BadImage(ValueError):
    """A body that is no picture that the model takes."""


def pixels(picture: Image.Image) -> np.ndarray:
    """A picture as the model takes it, (1, 28, 28) uint8."""
    if max(picture.size) > LARGEST:
        raise BadImage(f"the image is {picture.width}x{picture.height}; at most {LARGEST} a side")
    if picture.mode != "L":
        picture = picture.convert("L")
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8)[None]


def decode(raw: bytes) -> np.ndarray:
    """PNG or JPEG bytes as the model takes them."""
    try:
        return pixels(Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")))
    except (OSError, SyntaxError, ValueError) as error:
        raise BadImage(f"not a PNG or JPEG image: {error}") from None


class Digits:
    """The model under ONNX Runtime, one thread a process."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(os.environ["DIGITS_MODEL"], options)
        self.name = self.session.get_inputs()[0].name

    def answer(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        """Answers to a batch of decoded pictures."""
        outputs = self.session.run(None, {self.name: np.stack(images)})[0]
        return [
            {
                "label": CLASSES[int(row.argmax())],
                "probabilities": dict(zip(CLASSES, row.tolist(), strict=True)),
                "model_version": "benchmark",
                "request_id": str(uuid.uuid4()),
            }
            for row in outputs
        ]
