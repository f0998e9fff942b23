"""The benchmark of quality runs on tiny data of every modality and task, and says who is behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality import behind, compare, probabilities
from pipeline import metrics
from pipeline.transforms import FITS
from serving.inputs.spec import DataSpec, write_json
from tests.conftest import digits, spec_of
from tests.modalities import (
    series_rows,
    series_spec,
    table_rows,
    table_spec,
    text_rows,
    text_spec,
    write,
)

COUNT = 60
LABELS = np.arange(COUNT) % 3
WORDS = ("poor stale", "plain fair", "good fresh")


def image(folder: Path, name: str) -> DataSpec:
    images, labels = digits(COUNT, 1 + len(name), 3)
    spec = spec_of(images.shape[1:], "abc")
    write(folder / name, spec, images, labels)
    return spec


def table(folder: Path, name: str) -> DataSpec:
    rows = table_rows(COUNT, len(name))
    rows[:, [0, 2]] = LABELS[:, None] + np.random.default_rng(len(name)).normal(0, 0.1, (COUNT, 2))
    write(folder / name, table_spec("abc"), rows, LABELS)
    return table_spec("abc")


def values(folder: Path, name: str) -> DataSpec:
    rows = table_rows(COUNT, len(name))
    rows[:, [0, 2]] = np.random.default_rng(len(name)).normal(0, 1, (COUNT, 2))
    spec = table_spec((), ("x", "y"))
    write(folder / name, spec, rows, rows[:, [0, 2]] @ np.array([[1, 2], [3, 4]], np.float32))
    return spec


def series(folder: Path, name: str) -> DataSpec:
    rows = series_rows(COUNT, len(name))
    rows.values[:] += 5 * np.repeat(LABELS, rows.lengths)[:, None]
    write(folder / name, series_spec("abc"), rows, LABELS)
    return series_spec("abc")


def forecast(folder: Path, name: str) -> DataSpec:
    given = series_spec((), ("left",))
    assert given.series is not None
    horizon = {"max_steps": 5, "horizon": 1, "forecasts": ("left",)}
    spec = given.model_copy(update={"series": given.series.model_copy(update=horizon)})
    rows = series_rows(COUNT, len(name), 5, 6)
    write(folder / name, spec, rows, rows.values[4::5, :1].astype(np.float32))
    return spec


def text(folder: Path, name: str) -> DataSpec:
    """As `ingest` keeps them, and as `prepare` does, with one tokenizer."""
    texts = [f"the tea was {WORDS[label]} {name} {at}" for at, label in enumerate(LABELS)]
    raw = folder.parent / "ingest"
    if name == "train":
        both = [*texts, *(each.replace("train", "test") for each in texts)]
        write(raw, text_spec("abc"), text_rows(both), np.tile(LABELS, 2))
    from pipeline.core.dataset import Dataset

    dataset = Dataset(raw)
    fitted = FITS["text"](dataset, np.arange(2 * COUNT) < COUNT, folder)
    chunk, mine = next(dataset.chunks()), slice(0, COUNT) if name == "train" else slice(COUNT, None)
    tokens = fitted.encode(chunk)["tokens"][mine]
    write(folder / name, fitted.spec, tokens, LABELS, id=chunk["id"][mine])
    return fitted.spec


CASES: dict[str, tuple[Callable[[Path, str], DataSpec], str, int]] = {
    "image": (image, "accuracy", 2), "table": (table, "macro_f1", 3), "series": (series, "accuracy", 3),
    "text": (text, "macro_f1", 2), "regression": (values, "rmse", 2), "forecast": (forecast, "mae", 3),
}  # fmt: skip


def report_of(spec: DataSpec, targets: np.ndarray, good: float) -> dict[str, Any]:
    """Every metric as `evaluate` writes it, of a model that is as good as this."""
    known = metrics.BY_TASK[spec.task]
    return {name: {"value": good, "low": good - 0.01, "high": good + 0.01} for name in known}


@pytest.mark.parametrize("name", CASES)
def test_every_modality_is_compared_with_its_references(name: str, tmp_path: Path) -> None:
    make, judged, references = CASES[name]
    folder = tmp_path / "data" / "prepare"
    (tmp_path / "data" / "evaluate").mkdir(parents=True)
    folder.mkdir()
    spec, _ = make(folder, "train"), make(folder, "test")
    (tmp_path / "params.yaml").write_text(f"promote: {{metric: {judged}}}\n")
    for good, said in ((0.2, "yes"), (1.0, "no")):
        if judged in metrics.LOWER_IS_BETTER:
            good = {0.2: 1e9, 1.0: -1.0}[good]
        write_json(tmp_path / "data/evaluate/metrics.json", report_of(spec, LABELS, good))
        found = compare(tmp_path, rocket=False)
        assert found["behind the best reference beyond the interval"] == said
        assert found["judged by"] == judged
        told = [key for key in found if key.startswith(f"{judged} of ")]
        assert len(told) == references
        if spec.task == "classification":
            assert {"accuracy", "macro_f1"} <= found.keys()
            assert max(float(found[key]) for key in told) > 0.6, "what can be learnt is"


def test_who_is_behind_depends_on_which_way_is_better() -> None:
    ours = {"value": 1.0, "low": 0.9, "high": 1.1}
    assert behind("accuracy", ours, [0.2, 1.11]) == behind("mae", ours, [5.0, 0.89]) == "yes"
    assert behind("accuracy", ours, [0.2, 1.09]) == behind("mae", ours, [5.0, 0.91]) == "no"


@pytest.mark.parametrize("classes", [2, 3])
def test_margins_become_shares_that_choose_alike(classes: int) -> None:
    from sklearn.linear_model import RidgeClassifierCV

    rows = np.random.default_rng(0).normal(size=(90, 4))
    labels = (np.arange(90) % classes).astype(int)
    rows[:, 0] += 3 * labels
    model = RidgeClassifierCV().fit(rows, labels)
    found = probabilities(model, rows)
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_array_equal(found.argmax(1), model.predict(rows))
