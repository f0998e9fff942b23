"""Every recipe run whole, its test score beside named references on the same split, in one run.

`python -m benchmarks quality` runs all recipes; `QUALITY=loanapp,vowels` chooses. The references see what our
network sees, fit on train and are judged on test once: logistic or ridge regression, gradient boosting, isolation
forests (scikit-learn), summary statistics of series, tf-idf of texts, and for forecasts the naive one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.road import command, copy_project
from pipeline import forecasting, generation, metrics
from pipeline.core.dataset import Dataset
from serving.inputs.spec import DataSpec, read_json

ROOT = Path(__file__).resolve().parent.parent
Features = tuple[np.ndarray, np.ndarray]  # of train and test
MEASURES = {"table": "roc_auc", "series": "accuracy", "image": "accuracy", "text": "macro_f1"}


def image_features(train: Dataset, test: Dataset, folder: Path) -> Features:
    """Pixels, 0 to 1."""
    del folder
    first, second = (np.array(each.inputs).reshape(len(each), -1) / 255 for each in (train, test))
    return first, second


def table_features(train: Dataset, test: Dataset, folder: Path) -> Features:
    """Scaled numbers with medians for missing ones, and one column a category."""
    del folder
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table = train.spec.table
    assert table is not None
    count = len(table.numbers)
    columns = ColumnTransformer([
        ("numbers", make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()),
         list(range(count))),
        ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False),
         list(range(count, count + len(table.categories)))),
    ])  # fmt: skip
    return columns.fit_transform(np.array(train.inputs)), columns.transform(np.array(test.inputs))


def series_features(train: Dataset, test: Dataset, folder: Path) -> Features:
    """Mean, deviation, extremes, ends and length of each channel, scaled."""
    del folder
    from sklearn.preprocessing import StandardScaler

    series = train.spec.series
    if series is not None and series.horizon:  # windows of one length: the steps themselves
        first, second = (
            np.stack([np.nan_to_num(d.inputs[at]).ravel() for at in range(len(d))]) for d in (train, test)
        )
        return first, second

    def of(dataset: Dataset) -> np.ndarray:
        rows = []
        for at in range(len(dataset)):
            steps = np.nan_to_num(dataset.inputs[at])
            change = np.diff(steps, axis=0) if len(steps) > 1 else np.zeros_like(steps)
            parts = [
                steps.mean(0),
                steps.std(0),
                steps.min(0),
                steps.max(0),
                steps[0],
                steps[-1],
                change.std(0),
            ]
            rows.append(np.concatenate([*parts, [len(steps)]]))
        return np.stack(rows)

    scaler = StandardScaler()
    return scaler.fit_transform(of(train)), scaler.transform(of(test))


def text_features(train: Dataset, test: Dataset, folder: Path) -> Features:
    """Tf-idf of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    raw = Dataset(folder / "data" / "ingest")
    place = {bytes(identity): row for row, identity in enumerate(np.array(raw.column("id")))}

    def of(dataset: Dataset) -> list[str]:
        rows = (place[bytes(identity)] for identity in np.array(dataset.column("id")))
        return [raw.inputs[row].tobytes().decode() for row in rows]

    tfidf = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    return tfidf.fit_transform(of(train)), tfidf.transform(of(test))


FEATURES: dict[str, Callable[[Dataset, Dataset, Path], Features]] = {
    "image": image_features, "table": table_features, "series": series_features, "text": text_features,
}  # fmt: skip


def models_for(spec: DataSpec) -> dict[str, Any]:
    """The references of a task; gradient boosting where features are dense and few."""
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        IsolationForest,
    )
    from sklearn.linear_model import LogisticRegression, Ridge

    if spec.task == "anomaly":
        return {"isolation forest": IsolationForest(random_state=0)}
    if spec.task == "regression":
        return {
            "ridge regression": Ridge(),
            "gradient boosting": HistGradientBoostingRegressor(random_state=0),
        }
    found: dict[str, Any] = {"logistic regression": LogisticRegression(max_iter=2000)}
    if spec.modality in ("table", "series"):
        found["gradient boosting"] = HistGradientBoostingClassifier(random_state=0)
    return found


def outputs_of(model: Any, spec: DataSpec, train: Features, targets: np.ndarray) -> np.ndarray:
    """Fit a reference and give its test outputs, (N, K) or (N, M)."""
    if spec.task == "anomaly":
        return -model.fit(train[0]).score_samples(train[1])[:, None]
    if spec.task == "regression" and targets.shape[1] > 1:
        from sklearn.multioutput import MultiOutputRegressor

        return np.asarray(MultiOutputRegressor(model).fit(train[0], targets).predict(train[1]), np.float32)
    if spec.task == "regression":
        return np.asarray(model.fit(train[0], targets[:, 0]).predict(train[1]), np.float32)[:, None]
    model.fit(train[0], targets)
    found = np.full((train[1].shape[0], len(spec.classes)), 1e-9, np.float32)
    found[:, model.classes_] = model.predict_proba(train[1])
    return found


def real_ones(train: Dataset, test: Dataset, measure: str) -> dict[str, float | str]:
    """The same of real training images of the classes, which is the best there is, and of the classes' means."""
    draw = np.random.default_rng(0)
    rows = [draw.choice(np.flatnonzero(train.targets == label)) for label in test.targets]
    real = np.stack([train.inputs[row] for row in rows])
    metric, ones = metrics.BY_TASK["generation"][measure], np.ones((1, len(test)))
    others = {
        "real training images": generation.Judge(train).see(test.targets, np.array(test.inputs), real),
        "the mean image of a class": generation.seen(test, train, generation.means(test, train)),
    }
    return {
        f"{measure} of {name}": float(metric(ones, test.targets, rows)[0]) for name, rows in others.items()
    }


def compare(folder: Path) -> dict[str, float | str]:
    """Our test score with its interval, and each reference's on the same test."""
    train, test = (Dataset(folder / "data" / "prepare" / name) for name in ("train", "test"))
    spec = test.spec
    measure = {"regression": "r2", "anomaly": "roc_auc", "generation": "frechet"}.get(
        spec.task, MEASURES[spec.modality]
    )
    ours = read_json(folder / "data" / "evaluate" / "metrics.json")[measure]
    report: dict[str, float | str] = {
        measure: ours["value"], f"{measure}, low": ours["low"], f"{measure}, high": ours["high"],
    }  # fmt: skip
    if spec.task == "generation":
        return report | real_ones(train, test, measure)
    features = FEATURES[spec.modality](train, test, folder)
    ones = np.ones((1, len(test)))
    best = -np.inf
    if spec.series is not None and spec.series.horizon:
        naive = forecasting.naive(test)
        report[f"{measure} of the naive forecast"] = float(
            metrics.BY_TASK[spec.task][measure](ones, test.targets, naive)[0]
        )
    for name, model in models_for(spec).items():
        outputs = outputs_of(model, spec, features, train.targets)
        score = float(metrics.BY_TASK[spec.task][measure](ones, test.targets, outputs)[0])
        report[f"{measure} of {name}"] = score
        best = max(best, score)
    report["behind the best reference beyond the interval"] = "yes" if ours["high"] < best else "no"
    return report


def run() -> dict[str, float | str]:
    """Run each chosen recipe whole in a clean copy, and compare."""
    chosen = os.environ.get("QUALITY", "")
    names = chosen.split(",") if chosen else sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    results: dict[str, float | str] = {}
    for name in names:
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            copy_project(folder)
            shutil.copy(ROOT / "recipes" / f"{name}.yaml", folder / "params.yaml")
            seconds, _ = command(folder, "dvc", "repro")
            receipt = read_json(folder / "data" / "promote" / "receipt.json")
            results |= {
                f"{name}: family": read_json(folder / "data" / "train" / "model.json")["family"],
                f"{name}: seconds": seconds,
                f"{name}: verdict": receipt["verdict"],
                f"{name}: largest difference of a live answer": max(
                    entry["max_difference"] for entry in receipt["certified"]["comparisons"]
                ),
            }
            results |= {f"{name}: {key}": value for key, value in compare(folder).items()}
    return results
