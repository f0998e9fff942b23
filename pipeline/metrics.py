"""Classification metrics, all weighted alike, so that one pass gives the value and its bootstrap.

Weights have shape (B, N): B resamples of N samples, a weight being how often a sample was drawn. Ones give
the plain metric. scikit-learn computes the same one resample at a time (the tests compare); B of them at
once take a hundredth of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from pipeline import anomaly, generation, regression
from pipeline.core.ranking import average_precision_of, mean_of_known, ratio, roc_auc_of
from pipeline.core.resampling import Resamples as Resamples
from pipeline.core.resampling import block_of as block_of
from pipeline.core.resampling import resamples as resamples
from pipeline.forecasting import mase
from serving.inputs.spec import DataSpec, Task, Transform

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
BINS = 15  # of the calibration error, as in Guo et al., "On Calibration of Modern Neural Networks" (2017)


def confusion(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Weighted confusion matrices (B, K, K), rows actual, columns predicted."""
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(1)
    table = np.zeros((len(weights), classes * classes))
    for cell in np.unique(cells):
        table[:, cell] = weights[:, cells == cell].sum(1)
    return table.reshape(-1, classes, classes)


def accuracy(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Share of right answers, shape (B,)."""
    return weights @ (probabilities.argmax(1) == labels) / weights.sum(1)


def per_class(
    weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class, each (B, K); a class never predicted has precision 0."""
    table = confusion(weights, labels, probabilities)
    hits = np.einsum("bkk->bk", table)
    present = table.sum(2)
    recall = ratio(hits, present)
    precision = np.where(present > 0, np.nan_to_num(ratio(hits, table.sum(1))), np.nan)
    f1 = np.where(present > 0, np.nan_to_num(ratio(2 * hits, present + table.sum(1))), np.nan)
    return precision, recall, f1


def balanced_accuracy(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean recall over the classes that occur, shape (B,)."""
    return mean_of_known(per_class(weights, labels, probabilities)[1], axis=1)


def macro_f1(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur, shape (B,)."""
    return mean_of_known(per_class(weights, labels, probabilities)[2], axis=1)


def log_loss(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean negative logarithm, in nats, of the probability given to the right class, shape (B,)."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return weights @ -np.log(np.maximum(chosen, np.finfo(np.float32).eps)) / weights.sum(1)


def calibration_error(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Expected calibration error of the winning class over 15 equal bins, shape (B,)."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    inside = bins(confidence)[:, None] == np.arange(BINS)
    gap = weights @ (inside * (right - confidence)[:, None])
    return np.abs(gap).sum(1) / weights.sum(1)


def bins(confidence: np.ndarray) -> np.ndarray:
    """Bin number (N,) of each confidence in (0, 1]."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def roc_auc(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, one class against the rest, mean over the classes, shape (B,)."""
    columns = range(probabilities.shape[1])
    return mean_of_known([roc_auc_of(weights, labels == k, probabilities[:, k]) for k in columns], axis=0)


def average_precision(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Step-wise area under the precision-recall curve, mean over the classes, shape (B,)."""
    columns = range(probabilities.shape[1])
    return mean_of_known(
        [average_precision_of(weights, labels == k, probabilities[:, k]) for k in columns], axis=0
    )


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "log_loss": log_loss,
    "calibration_error": calibration_error,
}
BY_TASK: dict[Task, dict[str, Metric]] = {
    "classification": METRICS,
    "regression": {
        "rmse": regression.rmse,
        "mse": regression.mse,
        "mae": regression.mae,
        "r2": regression.r2,
    },
    "anomaly": {
        "roc_auc": anomaly.roc_auc,
        "average_precision": anomaly.average_precision,
        "recall": anomaly.recall,
        "false_alarms": anomaly.false_alarms,
    },
    "generation": {
        "frechet": generation.frechet,
        "agreement": generation.agreement,
        "coverage": generation.coverage,
        "copied": generation.copied,
    },
}
LOWER_IS_BETTER = {
    "log_loss", "calibration_error", "rmse", "mse", "mae", "mase", "false_alarms", "frechet", "copied",
}  # fmt: skip

BIASED = {"frechet"}  # the distance of two samples is too large, and that of their resamples once more


def measures(spec: DataSpec, transform: Transform) -> dict[str, Metric]:
    """The metrics of a task; forecasts are held against the naive one's error in training."""
    known = dict(BY_TASK[spec.task])
    if transform.naive_error:
        known["mase"] = partial(mase, scale=np.array(transform.naive_error))
    return known


def interval(values: np.ndarray, confidence: float, about: float | None = None) -> tuple[float, float]:
    """The percentile interval of bootstrap values (B,), moved so that their mean is `about` where that is given."""
    if about is not None:
        values = values - values.mean() + about
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
