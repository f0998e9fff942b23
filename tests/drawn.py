"""Pictures in every form, for the tests of the decoder."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from serving.inputs.spec import ImageInput

GREY = ImageInput(height=12, width=16, channels=1)
COLOUR = ImageInput(height=12, width=16, channels=3)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
SMOOTH = np.indices((12, 16)).sum(0).astype(np.uint8)[..., None] * np.array(
    [3, 5, 7], np.uint8
)  # survives JPEG


def saved(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A valid PNG up to its first pixel, of which it has none: whoever decodes it finds it truncated."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"")
    chunks = (struct.pack(">I", len(it) - 4) + it + struct.pack(">I", zlib.crc32(it)) for it in (body, idat))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
