"""What a transformer attends to, drawn: over patches of images, steps of series, words of texts, columns of tables.

Shown is the class token's attention in the last layer, averaged over the heads: what the answer is read from. It says
where the network looked, and not why it answered so (Jain and Wallace, "Attention is not Explanation", 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from pipeline.core.dataset import Dataset
from serving.inputs.text import TOKENIZER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLES, ACROSS = 6, 3
COLUMNS, WORDS = 16, 60  # of a table, the most attended; of a text, the first
LINE = 52  # characters of text a line


def draw(model: Path, dataset: Dataset, path: Path) -> bool:
    """Draw some samples of `dataset`, evenly spread; False, and no picture, where the model has no attention."""
    from models.served import load
    from models.transformer import Transformer

    served = load(model)
    if not isinstance(served.net, Transformer):
        return False
    rows = np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int))
    figure = Figure(figsize=(11, 3.4 * -(-len(rows) // ACROSS)), layout="constrained")
    figure.suptitle("What the class token attends to in the last layer (test)")
    for place, row in enumerate(rows):
        axes = figure.add_subplot(-(-len(rows) // ACROSS), ACROSS, place + 1)
        sample = np.asarray(dataset.inputs[int(row)])
        axes.set_title(_target(dataset, int(row)), fontsize=8)
        SHOWN[dataset.spec.modality](axes, sample, weights_of(served, sample), dataset, model)
    figure.savefig(path, dpi=100)
    return True


def weights_of(served: Any, sample: np.ndarray) -> np.ndarray:
    """How much of the attention each token of one canonical sample gets, (T,), the class token left out; sums to 1."""
    import torch

    with torch.no_grad():
        front = served.front(torch.from_numpy(np.array(sample))[None])
        maps = served.net.attention(front)[0, -1].mean(0)  # (1 + T, 1 + T)
    found: np.ndarray = maps[0, 1:].numpy()
    return found / max(float(found.sum()), 1e-12)


def _target(dataset: Dataset, row: int) -> str:
    spec, target = dataset.spec, dataset.targets[row]
    return spec.classes[int(target)] if spec.classes else f"{spec.targets[0]} {target[0]:.4g}"


def on_image(axes: Axes, sample: np.ndarray, weights: np.ndarray, dataset: Dataset, model: Path) -> None:
    """Patches laid over the picture (C, H, W)."""
    del dataset, model
    channels, height, width = sample.shape
    side = max(1, round((height * width / len(weights)) ** 0.5))
    while -(-height // side) * -(-width // side) > len(weights):  # padding makes a patch more than its share
        side += 1
    grid = weights.reshape(-(-height // side), -(-width // side))
    heat = grid.repeat(side, 0).repeat(side, 1)[:height, :width]
    axes.imshow(sample[0] if channels == 1 else sample.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    axes.imshow(heat, cmap="inferno", alpha=0.55, vmin=0)
    axes.set_axis_off()


def on_series(axes: Axes, sample: np.ndarray, weights: np.ndarray, dataset: Dataset, model: Path) -> None:
    """Channels (T, C) as lines over their steps, darker where more is attended to."""
    del dataset, model
    axes.plot(sample, linewidth=0.9)
    low, high = axes.get_ylim()
    ends = (-0.5, len(weights) - 0.5, low, high)
    axes.imshow(
        weights[None],
        extent=ends,
        aspect="auto",
        cmap="Oranges",
        vmin=0,
        vmax=2 * float(weights.max()),
        zorder=0,
    )
    axes.tick_params(labelsize=6)


def on_table(axes: Axes, sample: np.ndarray, weights: np.ndarray, dataset: Dataset, model: Path) -> None:
    """Columns by name, the most attended first, with their values."""
    del model
    table = dataset.spec.table
    assert table is not None
    fields = (*table.numbers, *table.categories)
    most = np.argsort(-weights, kind="stable")[:COLUMNS][::-1]
    names = []
    for at in most:
        field, value = fields[at], sample[at]
        said = "missing" if np.isnan(value) else f"{value:.4g}"
        if field.categories and value > 0:
            said = field.categories[int(value) - 1]
        names.append(f"{field.name} = {said}"[:40])
    axes.barh([name.replace("$", r"\$") for name in _unlike(names)], weights[most], color="tab:orange")
    axes.tick_params(labelsize=6)


def _unlike(names: list[str]) -> list[str]:
    """Names that differ, as bars of one name would be drawn over each other."""
    return [name + " " * names[:at].count(name) for at, name in enumerate(names)]


def on_text(axes: Axes, sample: np.ndarray, weights: np.ndarray, dataset: Dataset, model: Path) -> None:
    """Words, the darker the more is attended to them, line by line."""
    del dataset
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / TOKENIZER))
    axes.set_axis_off()
    axes.set_xlim(0, LINE)
    words = [tokenizer.decode([int(token)]) for token in sample[:WORDS]]
    x, y = 0, 0
    low, high = float(weights[: len(words)].min()), float(weights[: len(words)].max())
    for word, weight in zip(words, weights, strict=False):
        shown = word.replace("\n", " ").replace("$", r"\$")
        if x and x + len(word) > LINE:
            x, y = 0, y + 1
        box = {
            "facecolor": (1.0, 0.5, 0.05, (float(weight) - low) / max(high - low, 1e-12)),
            "edgecolor": "none",
            "pad": 0.8,
        }
        axes.text(x, -y, shown, family="monospace", fontsize=6, va="top", bbox=box)
        x += len(word)
    axes.set_ylim(-max(y + 1, 10), 0.5)


Shown = Callable[["Axes", np.ndarray, np.ndarray, Dataset, Path], None]
SHOWN: dict[str, Shown] = {"image": on_image, "series": on_series, "table": on_table, "text": on_text}
