"""Pictures made of samples, through Pillow alone."""

from __future__ import annotations

import numpy as np
from PIL import Image


def grid(
    images: np.ndarray,
    columns: int,
    scale: int = 2,
    gap: int = 2,
    ground: tuple[int, int, int] = (128, 128, 128),
) -> Image.Image:
    """Lay images (N, C, H, W) uint8 out in rows of `columns`, each enlarged `scale` times."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    across, down = width * scale + gap, height * scale + gap
    sheet = Image.new("RGB", (columns * across + gap, rows * down + gap), ground)
    for at, image in enumerate(images):
        pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
        tile = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        tile = tile.resize((width * scale, height * scale), Image.Resampling.NEAREST)
        sheet.paste(tile, (gap + at % columns * across, gap + at // columns * down))
    return sheet
