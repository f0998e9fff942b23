"""Stage `evaluate`: how good is it, for whom, how surely? The first reader of the test split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from pipeline import anomaly, attending, generated, generation, metrics, plots, regression, tracking
from pipeline.core.dataset import Dataset
from pipeline.core.params import Section, UserError, section
from pipeline.core.project import Seed
from pipeline.core.stage import DATA, main, replacing
from pipeline.fitting.epochlog import read_log
from pipeline.metrics import Metric
from pipeline.mistakes import mistakes
from serving.inputs.spec import DataSpec, Transform, read_json, write_json
from serving.predictor import Predictor

MODEL = DATA / "train"
TRAIN = DATA / "prepare" / "train"
TEST = DATA / "prepare" / "test"
OUTPUT = DATA / "evaluate"


class Evaluate(Section):
    """The `evaluate` section."""

    resamples: int = Field(2000, ge=100, le=100_000, description="Bootstrap resamples of the test split.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of every interval.")


def judge(
    known: Mapping[str, Metric],
    targets: np.ndarray,
    outputs: np.ndarray,
    settings: Evaluate,
    seed: int,
    block: int = 1,
) -> dict[str, Any]:
    """Metrics with intervals, from targets, (N,) or (N, M), and outputs, (N, K) or (N, M)."""
    spread: dict[str, list[np.ndarray]] = {name: [] for name in known}
    for weights in metrics.Resamples(settings.resamples, len(targets), seed, block):
        for name, metric in known.items():
            spread[name].append(metric(weights, targets, outputs))
    ones = np.ones((1, len(targets)))
    report: dict[str, Any] = {}
    for name, metric in known.items():
        value = float(metric(ones, targets, outputs)[0])
        about = value if name in metrics.BIASED else None
        low, high = metrics.interval(np.concatenate(spread[name]), settings.confidence, about)
        report[name] = {"value": value, "low": low, "high": high}
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
    """Targets, (N,) or (N, M), and the eager network's outputs, (N, K) or (N, M), on a split, read in chunks.

    Raises:
        UserError: an output is not a finite number.
    """
    predictor = Predictor(model, backend="eager")
    dataset = Dataset(test)
    asked = generation.requests_in(dataset, model)
    outputs = np.concatenate([predictor.outputs(rows) for rows in asked])
    if not np.isfinite(outputs).all():
        raise UserError(
            "the model answers with numbers that are not finite: its training diverged (lower train.lr) or its "
            "weights are damaged ('dvc checkout --force' brings back the recorded ones)"
        )
    return dataset.targets, outputs


def draw(spec: DataSpec, targets: np.ndarray, outputs: np.ndarray, folder: Path) -> None:
    """Write the curves and pictures of the task."""
    folder.mkdir()
    plots.learning_curves(read_log(MODEL / "log.csv"), spec.task, folder / "learning.png")
    if spec.task == "generation":
        generated.draw(Dataset(TEST), Dataset(TRAIN), outputs, folder)
        return
    mistakes(Dataset(TEST), targets, outputs, folder / "mistakes.png")
    attending.draw(MODEL, Dataset(TEST), folder / "attention.png")
    if spec.task == "regression":
        regression.draw(spec, targets, outputs, folder)
        if spec.series and spec.series.horizon:
            plots.forecasts(Dataset(TEST), targets, outputs, folder)
        return
    if spec.task == "anomaly":
        anomaly.draw(targets, outputs, folder)
        scores = 1 - 0.5 ** outputs[:, :1]  # 0 to 1, and a half at the alarm
        plots.curves(targets, np.hstack([1 - scores, scores]), spec.classes, folder)
        return
    plots.confusion_matrix(targets, outputs, spec.classes, folder)
    plots.curves(targets, outputs, spec.classes, folder)
    plots.reliability(targets, outputs, folder)


def run() -> None:
    """Run the stage."""
    settings = section("evaluate", Evaluate)
    seed = section("seed", Seed)
    spec = Dataset(TEST).spec
    mlrun = tracking.attach(read_json(MODEL / "run.json")["run_id"])
    targets, outputs = predict(MODEL, TEST)
    seen = generation.seen(Dataset(TEST), TRAIN, outputs)
    transform = Transform.model_validate_json((MODEL / "transform.json").read_text())
    report = judge(metrics.measures(spec, transform), targets, seen, settings, seed, metrics.block_of(spec))
    classes = by_class(targets, outputs, spec.classes) if spec.task == "classification" else {}
    with replacing(OUTPUT) as folder:
        np.save(folder / "outputs.npy", outputs)
        write_json(folder / "metrics.json", {**report, "samples": len(targets), "classes": classes})
        draw(spec, targets, outputs, folder / "plots")
        plots.complete(folder / "plots")
        mlrun.files(folder / "metrics.json", "evaluate")
        mlrun.files(folder / "plots", "plots")
    ends = {"": "value", "_low": "low", "_high": "high"}
    mlrun.metrics(
        {f"test_{name}{end}": entry[key] for name, entry in report.items() for end, key in ends.items()}
    )
    name, entry = next(iter(report.items()))
    print(
        f"evaluate: {name} {entry['value']:.4g} ({settings.confidence:.0%} interval {entry['low']:.4g} to "
        f"{entry['high']:.4g}) on {len(targets)} test samples"
    )


if __name__ == "__main__":
    main(run, "evaluate")
