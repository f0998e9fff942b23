"""Pictures of what a model got wrong: of every modality, of none, and of a regression."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from pipeline import metrics, plots, regression
from pipeline.core.dataset import Dataset
from pipeline.mistakes import SHOWN, mistakes, of_alarms, of_values
from pipeline.pictures import _line, samples
from tests.conftest import ROOT, digits, write_dataset
from tests.modalities import series_rows, series_spec, table_rows, table_spec, write

COUNT = 40
LABELS = np.arange(COUNT) % 3


@pytest.fixture(params=["image", "table", "series"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    if request.param == "image":
        return write_dataset(tmp_path / "set", digits(COUNT, 0)[0], LABELS, ("a", "b $x$", "é"))
    if request.param == "table":
        return write(tmp_path / "set", table_spec(("a", "b $x$", "é")), table_rows(COUNT, 0), LABELS)
    return write(tmp_path / "set", series_spec(("a", "b $x$", "é")), series_rows(COUNT, 0), LABELS)


def inked(path: Path) -> int:
    """How many pixels of a picture are not white."""
    with Image.open(path) as picture:
        return int((np.asarray(picture.convert("L")) < 250).sum())


def test_as_many_mistakes_are_drawn_as_there_are_up_to_a_limit(dataset: Dataset, tmp_path: Path) -> None:
    drawn = []
    for wrong in (0, 1, 6, SHOWN, COUNT):
        said = np.where(np.arange(COUNT) < wrong, (LABELS + 1) % 3, LABELS)
        mistakes(dataset, LABELS, np.eye(3, dtype=np.float32)[said], tmp_path / "mistakes.png")
        drawn.append(inked(tmp_path / "mistakes.png"))
    assert 0 < drawn[0] < drawn[1] < drawn[2] < drawn[3], "the title alone, then more and more samples"
    assert drawn[4] == pytest.approx(drawn[3], rel=0.02), "only the number in the title is another"


def test_the_most_confident_come_first(dataset: Dataset, tmp_path: Path) -> None:
    """Of all that are wrong, the 24 that are surest are those drawn; which ones is in the picture."""
    said = np.full((COUNT, 3), 0.1, np.float32)
    said[np.arange(COUNT), (LABELS + 1) % 3] = np.linspace(0.5, 0.9, COUNT)
    mistakes(dataset, LABELS, said, tmp_path / "all.png")
    unsure = said.copy()
    unsure[: COUNT - SHOWN] = np.roll(unsure[: COUNT - SHOWN], 1, axis=1)  # wrong otherwise, and never shown
    mistakes(dataset, LABELS, unsure, tmp_path / "other.png")
    with Image.open(tmp_path / "all.png") as one, Image.open(tmp_path / "other.png") as other:
        assert one.size == other.size
        below = slice(one.height // 10, None)  # the title's number may differ
        np.testing.assert_array_equal(np.asarray(one)[below], np.asarray(other)[below])


def test_samples_of_every_modality_are_drawn(dataset: Dataset, tmp_path: Path) -> None:
    sizes = []
    for count in (2, 12):
        samples(dataset, np.arange(count), 4, "Samples", tmp_path / "samples.png")
        with Image.open(tmp_path / "samples.png") as picture:
            sizes.append(picture.height)
    assert sizes[0] < sizes[1]


def test_a_regressions_residuals_are_written_and_drawn(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    targets = draw.normal(size=(50, 2)).astype(np.float32)
    outputs = targets + np.float32(0.5)
    regression.draw(table_spec((), ("price", "size")), targets, outputs, tmp_path)
    with (tmp_path / "residuals.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["target"] for row in rows] == ["price"] * 50 + ["size"] * 50
    np.testing.assert_allclose([float(row["true"]) for row in rows], targets.T.ravel(), rtol=1e-6)
    np.testing.assert_allclose([float(row["residual"]) for row in rows], 0.5, rtol=1e-5)
    assert inked(tmp_path / "residuals.png") > 1000


def test_the_worst_of_a_regression_and_of_anomalies_are_named(dataset: Dataset) -> None:
    spec = dataset.spec.model_copy(update={"targets": ("price", "size")})
    targets = np.stack([np.arange(COUNT), np.arange(COUNT)], 1).astype(np.float32)
    outputs = targets.copy()
    outputs[7, 1] += 9
    rows, said, was, _ = of_values(spec, targets, outputs)
    assert (rows[0], said[0], was[0]) == (7, "said 16", "size was 7")
    spec, labels = spec.model_copy(update={"classes": ("normal", "anomaly")}), np.array([0, 1, 0, 1])
    rows, said, was, title = of_alarms(spec, labels, np.array([[0.5], [2], [3], [0.9]]))
    assert (rows.tolist(), said[0], was) == ([2, 3], "score 3.00", ["was normal", "was anomaly"])
    assert title.startswith("2 wrong or missing alarms in 4")


def test_every_table_that_dvc_plots_is_there_for_any_task(tmp_path: Path) -> None:
    """DVC says of a plot whose file is missing that it cannot load it, and nothing of one without rows."""
    regression.draw(
        table_spec((), ("price",)), np.zeros((9, 1), np.float32), np.ones((9, 1), np.float32), tmp_path
    )
    written = (tmp_path / "residuals.csv").read_text()
    plots.complete(tmp_path)
    assert (tmp_path / "residuals.csv").read_text() == written
    for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]:
        for plot in entry.values() if isinstance(entry, dict) else []:
            for file, column in plot["y"].items():
                if file.startswith("data/evaluate/plots/"):
                    header = (tmp_path / Path(file).name).read_text().splitlines()[0].split(",")
                    assert {plot["x"], column} <= set(header)


def test_a_row_is_shown_with_dates_and_words(tmp_path: Path) -> None:
    rows = np.array([[47190, 1, np.nan, 16600, 2, 0]], np.float32)
    data = write(tmp_path / "set", table_spec(("a",)), rows, np.zeros(1, np.int64))
    assert (
        _line(data, 0)
        == "size, m 47,190, old yes, weight missing, since 2015-06-14, kind b, c, colour missing"
    )


def test_counts_of_the_reliability_picture_stand_apart_and_inside() -> None:
    bins = (np.arange(metrics.BINS) + 0.5) / metrics.BINS
    figure = plots._reliability(np.stack([bins, bins, np.arange(metrics.BINS) * 7000.0 + 54], axis=1))
    FigureCanvasAgg(figure).draw()
    below = figure.axes[1]
    frame, boxes = below.get_window_extent(), [text.get_window_extent() for text in below.texts]
    assert len(boxes) == metrics.BINS
    assert all(one.x1 < other.x0 or one.y1 < other.y0 for one, other in pairwise(boxes))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1 for box in boxes)
