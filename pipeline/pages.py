"""Pages that need no server and no network: templates rendered with their pictures inside."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"
TILE = 96  # longest side of an image on a page, in its own pixels
SHOWN = 56  # side to which smaller images are enlarged, by whole factors, in CSS pixels


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: `uri` holds its PNG bytes, `width` is in CSS pixels."""

    uri: str
    width: int
    caption: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar of a chart; `part` is its length as a fraction of the longest, 0 to 1."""

    name: str
    value: float
    part: float


@cache
def environment() -> Environment:
    """The template environment: everything escaped, an unknown name is an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def render(template: str, **content: Any) -> str:
    """Render a template of `pipeline/templates` to a whole HTML page."""
    return environment().get_template(template).render(**content)


def png_uri(picture: Image.Image) -> str:
    """The picture as a `data:` URI of PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def tile(image: np.ndarray) -> Image.Image:
    """One image (C, H, W) uint8, C 1 or 3, made smaller where a side is over `TILE`."""
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((TILE, TILE), Image.Resampling.BOX)
    return picture


def sheet(images: np.ndarray, columns: int, caption: str = "") -> Picture:
    """A contact sheet of the images (N, C, H, W) uint8, row by row, with transparent gaps; N at least 1."""
    tiles = [tile(image) for image in images]
    width, height = tiles[0].size
    columns = min(columns, len(tiles))
    scale = max(1, SHOWN // max(width, height))
    gap = 2 if scale > 1 else 4
    rows = -(-len(tiles) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    mode = "LA" if tiles[0].mode == "L" else "RGBA"
    canvas = Image.new(mode, size)
    for at, one in enumerate(tiles):
        row, column = divmod(at, columns)
        canvas.paste(one.convert(mode), (column * (width + gap), row * (height + gap)))
    return Picture(png_uri(canvas), size[0] * scale, caption)


def bars(values: dict[str, float]) -> list[Bar]:
    """Bars of named values, all of them at least 0, in the given order."""
    longest = max(values.values(), default=0) or 1
    return [Bar(name, value, value / longest) for name, value in values.items()]


def histogram(values: np.ndarray, bins: int = 48) -> list[Bar]:
    """Bars of how many `values` (N,) fall into each of equal bins, named by the bin's range."""
    counts, edges = np.histogram(values, bins)
    longest = max(int(counts.max()), 1)
    return [
        Bar(f"{low:.4g} to {high:.4g}", int(count), float(count) / longest)
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]
