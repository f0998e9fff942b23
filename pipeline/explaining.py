"""Draws explanations: a map over an image, bars for a table, a curve in colours for a series, words for a text.

Red speaks for what is explained, blue against it. An explanation is what the server answers at `/explanations`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = "RdBu_r"
BARS = 20  # columns of a table that are drawn
CURVES = 8  # channels of a series that are drawn
WIDTH = 104  # characters of a line of text
TOP = 5  # features that are told


def draw(told: dict[str, Any], body: bytes, path: Path) -> None:
    """Draw an explanation of a request's body into a PNG.

    Raises:
        ValueError: the file cannot be written in that format.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("agg")
    figure = Figure(layout="constrained")
    _DRAWN[_kind(told)](figure, told, body)
    figure.suptitle(headline(told), fontsize=10)
    figure.savefig(path, dpi=130)


def headline(told: dict[str, Any]) -> str:
    """What is explained, in a line."""
    return f"{told['target']}  {told['score']:.4g}   (model {told['model_version']})"


def strongest(told: dict[str, Any]) -> list[tuple[str, float]]:
    """The parts of the input that the answer depends on most, by name, with their scores; none where on nothing."""
    found = [each for each in _FEATURES[_kind(told)](told) if each[1]]
    return sorted(found, key=lambda each: -abs(each[1]))[:TOP]


def _kind(told: dict[str, Any]) -> str:
    if "size" in told:
        return "image"
    if "channels" in told:
        return "series"
    return "table" if isinstance(told["attributions"], dict) else "text"


def _image_features(told: dict[str, Any]) -> list[tuple[str, float]]:
    """Squares of a map of at most 4 by 4, by the pixels that they cover."""
    scores, (height, width) = np.array(told["attributions"]), told["size"]
    found = []
    for rows in np.array_split(np.arange(len(scores)), min(4, len(scores))):
        for columns in np.array_split(np.arange(scores.shape[1]), min(4, scores.shape[1])):
            box = [edge * told["block"] for edge in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)]
            name = f"rows {box[0]} to {min(box[1], height)}, columns {box[2]} to {min(box[3], width)}"
            found.append((name, float(scores[np.ix_(rows, columns)].mean())))
    return found


def _series_features(told: dict[str, Any]) -> list[tuple[str, float]]:
    """Stretches of equal score, by channel."""
    scores = np.array(told["attributions"]).reshape(-1, len(told["channels"]))
    found = []
    for channel, column in zip(told["channels"], scores.T, strict=True):
        edges = [0, *(np.flatnonzero(np.diff(column)) + 1), len(column)]
        for begin, end in pairwise(edges):
            found.append((f"{channel}, steps {begin} to {end - 1}", float(column[begin])))
    return found


_FEATURES: dict[str, Callable[[dict[str, Any]], list[tuple[str, float]]]] = {
    "image": _image_features,
    "table": lambda told: list(told["attributions"].items()),
    "series": _series_features,
    "text": lambda told: [(each["text"], each["score"]) for each in told["attributions"]],
}


def _limit(scores: Any) -> float:
    """The largest score, which the colours end at."""
    return float(np.abs(np.array(scores, float)).max(initial=0)) or 1.0


def _image(figure: Any, told: dict[str, Any], body: bytes) -> None:
    scores, limit = np.array(told["attributions"]), _limit(told["attributions"])
    figure.set_size_inches(8, 4.2)
    picture = _pixels(body)
    extent = (0, picture.shape[1], picture.shape[0], 0)
    for place, over in enumerate((False, True)):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=extent)
        if over:
            shown = axes.imshow(
                scores,
                cmap=COLOURS,
                vmin=-limit,
                vmax=limit,
                alpha=0.6,
                extent=extent,
                interpolation="bilinear",
            )
            figure.colorbar(shown, ax=axes, shrink=0.8)
        axes.set_axis_off()


def _pixels(body: bytes) -> np.ndarray:
    """The image that was sent, upright, (H, W) or (H, W, 3)."""
    from PIL import Image, ImageOps

    if body.lstrip()[:1] == b"{":
        content = json.loads(body)
        if "pixels" in content:
            return np.array(content["pixels"], np.uint8).squeeze()
        body = base64.b64decode(content["image"])
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(body)))
    return np.asarray(picture.convert("L" if picture.mode in ("L", "1") else "RGB"))


def _table(figure: Any, told: dict[str, Any], body: bytes) -> None:
    values = _cells(body)
    ranked = sorted(told["attributions"].items(), key=lambda each: -abs(each[1]))[:BARS][::-1]
    names = [f"{name} = {values[name]}"[:48] if name in values else name for name, _ in ranked]
    scores = [score for _, score in ranked]
    figure.set_size_inches(8, 1.2 + 0.3 * len(ranked))
    axes = figure.add_subplot()
    axes.barh(
        range(len(names)), scores, color=[_colour(score, _limit(scores)) for score in scores], edgecolor="0.5"
    )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_xlabel(f"change of the answer against {told['baseline']}", fontsize=8)


def _cells(body: bytes) -> dict[str, Any]:
    """The columns of a row by name, where the body names them."""
    text = body.decode("utf-8-sig", errors="replace")
    if text.lstrip()[:1] == "{":
        content = json.loads(text)
        return content if isinstance(content, dict) else {}
    lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    return dict(zip([name.strip() for name in lines[0]], lines[1], strict=False)) if len(lines) == 2 else {}


def _colour(score: float, limit: float) -> Any:
    import matplotlib as mpl

    return mpl.colormaps[COLOURS](0.5 + 0.5 * score / limit)


def _series(figure: Any, told: dict[str, Any], body: bytes) -> None:
    channels = told["channels"]
    scores = np.array(told["attributions"]).reshape(-1, len(channels))
    steps = _steps(body, len(channels))[: len(scores)]
    limit, order = _limit(scores), np.argsort(-np.abs(scores).max(0), kind="stable")[:CURVES]
    figure.set_size_inches(9, 1 + 1.5 * len(order))
    panels = figure.subplots(len(order), 1, sharex=True, squeeze=False)[:, 0]
    for axes, channel in zip(panels, np.sort(order), strict=True):
        curve = steps[:, channel]
        low, high = (np.nanmin(curve), np.nanmax(curve)) if np.isfinite(curve).any() else (0.0, 1.0)
        pad = 0.08 * (high - low) or 0.5
        shown = axes.imshow(
            scores[None, :, channel], cmap=COLOURS, vmin=-limit, vmax=limit, alpha=0.8, aspect="auto",
            extent=(-0.5, len(scores) - 0.5, low - pad, high + pad),
        )  # fmt: skip
        axes.plot(curve, color="black", linewidth=1.0, marker="." if len(curve) < 80 else "", markersize=4)
        axes.set_ylabel(channels[channel], fontsize=8)
        axes.tick_params(labelsize=7)
    panels[-1].set_xlabel("step", fontsize=8)
    figure.colorbar(shown, ax=list(panels), shrink=0.9)


def _steps(body: bytes, channels: int) -> np.ndarray:
    """The series that was sent, (T, C), NaN where a value is missing."""
    text = body.decode("utf-8-sig")
    if text.lstrip()[:1] in ("{", "["):
        content = json.loads(text)
        rows = content["series"] if isinstance(content, dict) else content
    else:
        rows = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    found = [[_number(cell) for cell in (row if isinstance(row, list) else [row])] for row in rows]
    if found and np.isnan(found[0]).all() and isinstance(rows[0], list) and any(rows[0]):
        found = found[1:]  # a header line
    return np.array(found, float).reshape(-1, channels)


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return float("nan")


def _text(figure: Any, told: dict[str, Any], body: bytes) -> None:
    del body
    words = told["attributions"]
    limit = _limit([each["score"] for each in words])
    lines: list[list[tuple[int, str, float]]] = [[]]
    column = 0
    for each in words:
        shown = each["text"].replace("$", r"\$")[:WIDTH]
        if column and column + len(shown) > WIDTH:
            lines.append([])
            column = 0
        lines[-1].append((column, shown, each["score"]))
        column += len(shown) + 1
    figure.set_size_inches(9, 1 + 0.28 * len(lines))
    axes = figure.add_subplot(xlim=(0, WIDTH), ylim=(len(lines), -0.5))
    axes.set_axis_off()
    for row, line in enumerate(lines):
        for column, shown, score in line:
            box = {"facecolor": _colour(score, limit), "edgecolor": "none", "pad": 1.5}
            ink = "white" if abs(score) > 0.65 * limit else "black"
            axes.text(column, row, shown, family="monospace", fontsize=9, va="top", color=ink, bbox=box)


_DRAWN: dict[str, Callable[[Any, dict[str, Any], bytes], None]] = {
    "image": _image, "table": _table, "series": _series, "text": _text,
}  # fmt: skip
