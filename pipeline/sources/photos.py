"""Photographs and textures that packages ship, cut into cells: which one is a cell of? Few samples a class.

The protocol is that of the Brodatz album's users (Randen and Husoy, 1999): cells of one photograph do not overlap, so
no pixel is seen twice. Neighbouring cells of one photograph share its light and its camera, as new photographs would
not: a score here says how well the classes are told apart, not how well a new photograph of a cat is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.extras import folder_of
from pipeline.sources.base import Data
from pipeline.sources.images import ImageSource, RawImage
from serving.inputs.image import encode_png

CELL = 64  # pixels a side
CELLS = 24  # of each photograph, spread evenly over it
PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
MORE = ("china.jpg", "flower.jpg")


class PhotosSource(ImageSource):
    """24 cells of 64x64 pixels of each of 16 photographs, from scikit-image and scikit-learn (both BSD-3), as PNG."""

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        found = importlib.util.find_spec("sklearn")
        assert found is not None, "scikit-learn is a core dependency"
        assert found.origin is not None
        folders = {
            folder_of("photos") / "data": PHOTOS,
            Path(found.origin).parent / "datasets" / "images": MORE,
        }
        paths = (folder / file for folder, files in folders.items() for file in files)
        self._paths = {path.name: path for path in sorted(paths, key=lambda path: path.name)}
        self.classes = tuple(path.stem for path in self._paths.values())

    def __len__(self) -> int:
        return CELLS * len(self._paths)

    def samples(self) -> Iterator[RawImage]:
        """The cells of one photograph after the other."""
        for label, path in enumerate(self._paths.values()):
            pixels = _pixels(path)
            for top, left in cells(pixels.shape[0], pixels.shape[1]):
                yield RawImage(f"{path.name}:{top},{left}", _cut(pixels, top, left), label)

    def read(self, origins: Collection[str]) -> dict[str, bytes]:
        """The PNGs of some cells; an origin is a file with the first row and column of the cell."""
        found = {}
        for origin in origins:
            file, _, place = origin.partition(":")
            top, left = map(int, place.split(","))
            found[origin] = _cut(_pixels(self._paths[file]), top, left)
        return found

    def left_out(self) -> list[str]:
        """Nothing."""
        return []


def cells(height: int, width: int) -> list[tuple[int, int]]:
    """Where `CELLS` cells of a photograph begin, top and left in pixels; none overlap.

    >>> cells(300, 451)[:3]
    [(0, 0), (0, 64), (0, 128)]
    """
    places = [
        (top, left) for top in range(0, height - CELL + 1, CELL) for left in range(0, width - CELL + 1, CELL)
    ]
    return [places[at] for at in np.linspace(0, len(places) - 1, CELLS).round().astype(int)]


@cache
def _pixels(path: Path) -> np.ndarray:
    """A photograph, (H, W, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _cut(pixels: np.ndarray, top: int, left: int) -> bytes:
    return encode_png(pixels[top : top + CELL, left : left + CELL].transpose(2, 0, 1))
