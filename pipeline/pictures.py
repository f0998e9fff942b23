"""Pictures made of samples, by modality: images through Pillow alone, all else through matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipeline.cells import cell

if TYPE_CHECKING:
    from pipeline.core.dataset import Dataset


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


def show_series(dataset: Dataset, rows: np.ndarray, captions: Sequence[str], title: str, path: Path) -> None:
    """Series as lines, one line a channel."""
    from matplotlib.figure import Figure

    across, count = 4, max(len(rows), 1)
    figure = Figure(figsize=(11, 0.6 + 1.7 * -(-count // across)), layout="constrained")
    figure.suptitle(title)
    for place, row in enumerate(rows):
        axes = figure.add_subplot(-(-count // across), across, place + 1)
        axes.plot(dataset.inputs[int(row)], linewidth=0.8)
        axes.set_title(captions[place] if captions else "", fontsize=7)
        axes.tick_params(labelsize=6)
    figure.savefig(path, dpi=100)


def show_text(dataset: Dataset, rows: np.ndarray, captions: Sequence[str], title: str, path: Path) -> None:
    """Rows as lines of text: tokens of a text, values of a table."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.7 + 0.42 * max(len(rows), 1)))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    axes.text(0, 1, title, fontsize=11, va="top")
    for place, row in enumerate(rows):
        y = 1 - (place + 1.2) / (len(rows) + 1.5)
        axes.text(0, y, captions[place] if captions else "", fontsize=7, va="top", weight="bold")
        axes.text(0.2, y, _line(dataset, int(row)), fontsize=6.5, va="top", family="monospace")
    figure.savefig(path, dpi=110)


def _line(dataset: Dataset, row: int, width: int = 150) -> str:
    spec, values = dataset.spec, dataset.inputs[row]
    if spec.table is not None:
        fields = (*spec.table.numbers, *spec.table.categories)
        pairs = zip(fields, values, strict=True)
        text = ", ".join(f"{field.name} {cell(field, value)}" for field, value in pairs)
    else:
        text = " ".join(map(str, values.tolist()))
    shown = text[:width] + (" ..." if len(text) > width else "")
    return shown.replace("$", r"\$")


Show = Callable[["Dataset", np.ndarray, Sequence[str], str, Path], None]
SHOW: dict[str, Show] = {"series": show_series, "text": show_text, "table": show_text}


def samples(dataset: Dataset, rows: np.ndarray, columns: int, title: str, path: Path) -> None:
    """Draw some samples of any modality, images `columns` in a row."""
    if dataset.spec.modality == "image":
        images: Any = dataset.inputs
        grid(np.stack([images[at] for at in rows]), columns).save(path)
    else:
        SHOW[dataset.spec.modality](dataset, rows, [], title, path)
