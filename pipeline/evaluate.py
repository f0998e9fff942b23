"""Stage `evaluate`: how good is it, for whom, how surely? The first reader of the test split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from pipeline import metrics, plots, tracking
from pipeline.core.dataset import Dataset
from pipeline.core.params import Section, UserError, section
from pipeline.core.project import Seed
from pipeline.core.stage import DATA, main, replacing
from pipeline.fitting.epochlog import read_log
from serving.inputs.spec import read_json, write_json
from serving.predictor import Predictor

MODEL = DATA / "train"
TEST = DATA / "prepare" / "test"
OUTPUT = DATA / "evaluate"


class Evaluate(Section):
    """The `evaluate` section."""

    resamples: int = Field(2000, ge=100, le=100_000, description="Bootstrap resamples of the test split.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of every interval.")


def judge(labels: np.ndarray, probabilities: np.ndarray, settings: Evaluate, seed: int) -> dict[str, object]:
    """Headline metrics with intervals, from labels (N,) and probabilities (N, K)."""
    weights = metrics.resamples(settings.resamples, len(labels), seed)
    ones = np.ones((1, len(labels)))
    report: dict[str, object] = {}
    for name, metric in metrics.METRICS.items():
        low, high = metrics.interval(metric(weights, labels, probabilities), settings.confidence)
        report[name] = {"value": float(metric(ones, labels, probabilities)[0]), "low": low, "high": high}
    return report


def by_class(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> dict[str, object]:
    """Precision, recall, F1 and support of each class."""
    precision, recall, f1 = (
        np.nan_to_num(values[0])
        for values in metrics.per_class(np.ones((1, len(labels))), labels, probabilities)
    )
    return {
        name: {
            "precision": float(precision[k]), "recall": float(recall[k]), "f1": float(f1[k]),
            "support": int((labels == k).sum()),
        }
        for k, name in enumerate(classes)
    }  # fmt: skip


def predict(model: Path, test: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and the eager network's probabilities (N, K) of a split, read in chunks.

    Raises:
        UserError: a probability is not a finite number.
    """
    predictor = Predictor(model, backend="eager")
    dataset = Dataset(test)
    parts = [predictor.probabilities(chunk["image"]) for chunk in dataset.chunks(["image"])]
    probabilities = np.concatenate(parts)
    if not np.isfinite(probabilities).all():
        raise UserError(
            "the model answers with numbers that are not finite: its training diverged (lower train.lr) or its "
            "weights are damaged ('dvc checkout --force' brings back the recorded ones)"
        )
    return np.array(dataset.column("label")), probabilities


def draw(labels: np.ndarray, probabilities: np.ndarray, folder: Path) -> None:
    """Write the curves and pictures."""
    dataset = Dataset(TEST)
    classes = dataset.spec.classes
    folder.mkdir()
    plots.confusion_matrix(labels, probabilities, classes, folder)
    plots.curves(labels, probabilities, classes, folder)
    plots.reliability(labels, probabilities, folder)
    plots.learning_curves(read_log(MODEL / "log.csv"), folder / "learning.png")
    plots.mistakes(dataset.column("image"), labels, probabilities, classes, folder / "mistakes.png")


def run() -> None:
    """Run the stage."""
    settings = section("evaluate", Evaluate)
    seed = section("seed", Seed)
    mlrun = tracking.attach(read_json(MODEL / "run.json")["run_id"])
    labels, probabilities = predict(MODEL, TEST)
    report = judge(labels, probabilities, settings, seed)
    classes = by_class(labels, probabilities, Dataset(TEST).spec.classes)
    with replacing(OUTPUT) as folder:
        np.save(folder / "probabilities.npy", probabilities)
        write_json(folder / "metrics.json", {**report, "samples": len(labels), "classes": classes})
        draw(labels, probabilities, folder / "plots")
        mlrun.files(folder / "metrics.json", "evaluate")
        mlrun.files(folder / "plots", "plots")
    flat: dict[str, float] = {}
    for name, entry in report.items():
        assert isinstance(entry, dict)
        flat |= {
            f"test_{name}": entry["value"],
            f"test_{name}_low": entry["low"],
            f"test_{name}_high": entry["high"],
        }
    mlrun.metrics(flat)
    entry = report["accuracy"]
    assert isinstance(entry, dict)
    print(
        f"evaluate: accuracy {entry['value']:.4f} ({settings.confidence:.0%} interval {entry['low']:.4f} to "
        f"{entry['high']:.4f}) on {len(labels)} test samples"
    )


if __name__ == "__main__":
    main(run, "evaluate")
