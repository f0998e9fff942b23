"""Every recipe run whole, its test score beside named references on the same split, in one run.

`python -m benchmarks quality` runs all recipes; `QUALITY=loanapp,vowels` chooses. The references see what our
network sees, fit on train and are judged on test once: logistic or ridge regression, gradient boosting, isolation
forests (scikit-learn), summary statistics of series and, where `sktime` and `numba` are installed, MiniRocket (Dempster
et al., 2021), tf-idf of texts, and for forecasts the naive one. What is compared is `promote.metric`; accuracy and
macro-F1 of classifications are told beside it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from benchmarks.road import command, copy_project
from pipeline import forecasting, generation, metrics
from pipeline.core.dataset import Dataset
from pipeline.goals import goal
from serving.inputs.spec import DataSpec, read_json

ROOT = Path(__file__).resolve().parent.parent
Features = tuple[np.ndarray, np.ndarray]  # of train and test
BESIDE = ("accuracy", "macro_f1")  # of classifications


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
    found: dict[str, Any] = {
        "logistic regression": LogisticRegression(max_iter=2000),
        "logistic regression, balanced": LogisticRegression(max_iter=2000, class_weight="balanced"),
    }
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
    found[:, model.classes_] = probabilities(model, train[1])
    return found


def probabilities(model: Any, rows: np.ndarray) -> np.ndarray:
    """What a classifier gives rows (N, D), (N, K); of one that gives margins alone their softmax."""
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(rows))
    from scipy.special import softmax

    margins = np.asarray(model.decision_function(rows))
    return softmax(np.stack([-margins, margins], 1) if margins.ndim == 1 else margins, axis=1)


def rocket_features(train: Dataset, test: Dataset) -> Features:
    """MiniRocket's features of each series scaled by itself, padded where short, beside its summary statistics."""
    import pandas as pd
    from sklearn.preprocessing import StandardScaler
    from sktime.transformations.panel.rocket import MiniRocketMultivariateVariable

    def of(dataset: Dataset) -> list[Any]:
        frames = []
        for at in range(len(dataset)):
            steps = np.nan_to_num(dataset.inputs[at])
            steps = (steps - steps.mean(0)) / np.maximum(steps.std(0), 1e-9)
            frames.append(pd.DataFrame(steps.astype(np.float32)))
        return frames

    rocket = MiniRocketMultivariateVariable(pad_value_short_series=0.0, random_state=0)
    scaler = StandardScaler()
    first = scaler.fit_transform(np.asarray(rocket.fit_transform(of(train))))
    second = scaler.transform(np.asarray(rocket.transform(of(test))))
    plain = series_features(train, test, Path())
    return np.hstack([first, plain[0]]), np.hstack([second, plain[1]])


def has_rocket() -> bool:
    """True where MiniRocket can be imported."""
    return all(importlib.util.find_spec(name) for name in ("sktime", "numba"))


def references(train: Dataset, test: Dataset, folder: Path, rocket: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Names of the references and their outputs of the test."""
    spec = test.spec
    if spec.task == "generation":
        yield (
            "the mean image of a class",
            generation.seen(test, train.folder, generation.means(test, train.folder)),
        )
        return
    if spec.series is not None and spec.series.horizon:
        yield "the naive forecast", forecasting.naive(test)
    features = FEATURES[spec.modality](train, test, folder)
    for name, model in models_for(spec).items():
        yield name, outputs_of(model, spec, features, train.targets)
    if rocket and spec.modality == "series" and spec.task == "classification":
        from sklearn.linear_model import RidgeClassifierCV

        ridge = RidgeClassifierCV(alphas=np.logspace(-3, 4, 8))
        yield (
            "MiniRocket with ridge regression",
            outputs_of(ridge, spec, rocket_features(train, test), train.targets),
        )


def compare(folder: Path, rocket: bool) -> dict[str, float | str]:
    """Our test scores with the interval of `promote.metric`, and each reference's on the same test."""
    train, test = (Dataset(folder / "data" / "prepare" / name) for name in ("train", "test"))
    task = test.spec.task
    judged = goal(yaml.safe_load((folder / "params.yaml").read_text())["promote"]["metric"], test.spec)
    measures = dict.fromkeys([judged, *(BESIDE if task == "classification" else ())])
    ours = read_json(folder / "data" / "evaluate" / "metrics.json")
    report: dict[str, float | str] = {"judged by": judged}
    report |= {measure: ours[measure]["value"] for measure in measures}
    report |= {f"{judged}, {end}": ours[judged][end] for end in ("low", "high")}
    ones = np.ones((1, len(test)))
    scores = []
    for name, outputs in references(train, test, folder, rocket):
        for measure in measures:
            score = float(metrics.BY_TASK[task][measure](ones, test.targets, outputs)[0])
            report[f"{measure} of {name}"] = score
            scores += [score] if measure == judged else []
    report["behind the best reference beyond the interval"] = behind(judged, ours[judged], scores)
    if task == "generation":
        report[f"{judged} of real training images, the best there is"] = real_ones(train, test, judged)
    return report


def real_ones(train: Dataset, test: Dataset, measure: str) -> float:
    """What real training images of the test's classes get."""
    draw = np.random.default_rng(0)
    rows = [draw.choice(np.flatnonzero(train.targets == label)) for label in test.targets]
    real = np.stack([train.inputs[row] for row in rows])
    seen = generation.Judge(train).see(test.targets, np.array(test.inputs), real)
    return float(metrics.BY_TASK["generation"][measure](np.ones((1, len(test))), test.targets, seen)[0])


def behind(measure: str, ours: dict[str, float], scores: list[float]) -> str:
    """'yes' where the best of some scores lies beyond the better end of our interval.

    >>> behind("accuracy", {"low": 0.8, "high": 0.9}, [0.7, 0.91]), behind("rmse", {"low": 2, "high": 3}, [2.5, 4])
    ('yes', 'no')
    """
    if measure in metrics.LOWER_IS_BETTER:
        return "yes" if min(scores) < ours["low"] else "no"
    return "yes" if max(scores) > ours["high"] else "no"


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
            found: dict[str, float | str] = {
                "family": read_json(folder / "data" / "train" / "model.json")["family"],
                "seconds": seconds,
                "verdict": receipt["verdict"],
                "largest difference of a live answer": max(
                    entry["max_difference"] for entry in receipt["certified"]["comparisons"]
                ),
                **compare(folder, has_rocket()),
            }
        print(f"{name}: {found}", flush=True)  # a recipe takes minutes: what is known is told at once
        results |= {f"{name}: {key}": value for key, value in found.items()}
    return results
