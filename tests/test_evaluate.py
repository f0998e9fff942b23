"""The reported figures are right: recomputed by scikit-learn from the saved probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as reference

from tests.recipes import refused
from tests.road import Road

pytestmark = pytest.mark.slow


def test_the_figures_are_those_of_scikit_learn(road: Road) -> None:
    told = road.json("data/evaluate/metrics.json")
    labels = np.load(road.folder / "data/prepare/test/label.npy")
    probabilities = np.load(road.folder / "data/evaluate/outputs.npy")
    assert told["samples"] == len(labels) == len(probabilities)
    said = probabilities.argmax(1)
    onehot = np.eye(probabilities.shape[1])[labels]
    expected = {
        "accuracy": reference.accuracy_score(labels, said),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, said),
        "macro_f1": reference.f1_score(labels, said, average="macro"),
        "roc_auc": reference.roc_auc_score(onehot, probabilities, average="macro"),
        "average_precision": reference.average_precision_score(onehot, probabilities, average="macro"),
        "log_loss": reference.log_loss(labels, probabilities.astype(np.float64)),
    }
    for name, value in expected.items():
        assert told[name]["value"] == pytest.approx(value, abs=2e-4), name
    assert told.keys() == {*expected, "calibration_error", "samples", "classes"}
    for name in (*expected, "calibration_error"):
        assert told[name]["low"] <= told[name]["value"] <= told[name]["high"] or name == "calibration_error"
    precision, recall, f1, support = reference.precision_recall_fscore_support(labels, said, zero_division=0)
    for number, entry in enumerate(told["classes"].values()):
        assert entry["precision"] == pytest.approx(precision[number])
        assert entry["recall"] == pytest.approx(recall[number])
        assert entry["f1"] == pytest.approx(f1[number])
        assert entry["support"] == support[number]


def test_curves_and_pictures_are_there(road: Road) -> None:
    plots = road.folder / "data/evaluate/plots"
    names = {path.name for path in plots.iterdir()}
    assert names >= {
        f"{name}.{kind}" for name in ("confusion", "roc", "pr", "reliability") for kind in ("csv", "png")
    }
    assert names >= {"mistakes.png", "learning.png"}
    assert (
        len((plots / "confusion.csv").read_text().splitlines())
        == road.json("data/evaluate/metrics.json")["samples"] + 1
    )


def test_dvc_shows_metrics_and_plots(road: Road) -> None:
    shown = json.loads(road.run("dvc", "metrics", "show", "--json").stdout)
    metrics = shown[""]["data"]["data/evaluate/metrics.json"]["data"]
    assert metrics["accuracy"] == road.json("data/evaluate/metrics.json")["accuracy"]
    road.run("dvc", "plots", "show", "-o", "dvc_plots")
    page = (road.folder / "dvc_plots" / "index.html").read_text()
    for title in ("Confusion matrix", "ROC", "Reliability", "Training", "Tuning"):
        assert title in page
    images = {path.name for path in (road.folder / "dvc_plots").rglob("*.png")}
    assert len(images) >= 2


def test_numbers_that_are_not_finite_are_refused(road: Road, tmp_path: Path) -> None:
    other = road.copy(tmp_path / "road")
    path = other.folder / "data/train/weights.safetensors"
    whole, before = path.read_bytes(), other.digest("data/evaluate")
    for broken, message in (
        (whole[:-4000] + b"\xff" * 4000, "not finite"),
        (whole[:1000], "a weights file is damaged"),
    ):
        path.write_bytes(broken)
        told = refused(other, "evaluate")
        assert message in told
        assert other.digest("data/evaluate") == before
