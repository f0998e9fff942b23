"""What is fitted on the training rows: NumPy's own figures of those rows, and of no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.dataset import CHUNK
from pipeline.golden import choose, spread
from pipeline.transforms import FITS
from serving.inputs.ragged import Ragged
from serving.inputs.spec import Transform
from tests.modalities import (
    TEXTS,
    series_rows,
    series_spec,
    table_rows,
    table_spec,
    text_rows,
    text_spec,
    write,
)

COUNT = 2 * CHUNK + 77  # so that figures of several chunks are put together
TRAIN = np.random.default_rng(9).random(COUNT) < 0.6


def test_numbers_of_a_table_leave_out_what_is_missing(tmp_path: Path) -> None:
    rows = table_rows(COUNT, 1)
    rows[:, [0, 2]] = np.random.default_rng(0).normal(50, 3, (COUNT, 2))
    rows[::7, 0] = np.nan
    rows[~TRAIN, 0] += 1_000
    dataset = write(tmp_path, table_spec("abc"), rows, np.arange(COUNT) % 3)
    found = FITS["table"](dataset, TRAIN, tmp_path).transform
    train = rows[TRAIN].astype(float)
    np.testing.assert_allclose(found.mean, np.nanmean(train[:, :4], axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.std, np.nanstd(train[:, :4], axis=0), rtol=1e-6)


def test_a_number_that_is_always_missing_or_the_same_is_not_divided_by_zero(tmp_path: Path) -> None:
    rows = table_rows(60, 1)
    rows[:, 0], rows[:, 2] = np.nan, 1e7
    dataset = write(tmp_path, table_spec("abc"), rows, np.arange(60) % 3)
    found = FITS["table"](dataset, np.ones(60, bool), tmp_path).transform
    assert (found.mean[0], found.std[0]) == (0, 1)
    assert (found.mean[2], found.std[2]) == (pytest.approx(1e7), 1)


def test_a_category_is_known_where_training_holds_it(tmp_path: Path) -> None:
    rows = table_rows(COUNT, 2)
    rows[TRAIN & (rows[:, 4] == 3), 4] = 2
    rows[TRAIN, 5] = 1
    dataset = write(tmp_path, table_spec("abc"), rows, np.arange(COUNT) % 3)
    assert 3 in rows[~TRAIN, 4]
    known = FITS["table"](dataset, TRAIN, tmp_path).transform.known
    assert known == ((True, True, True, False, True, True), (True, True)), "0, nothing known, always is"


def test_steps_of_series_count_alike_whatever_their_length(tmp_path: Path) -> None:
    rows = series_rows(COUNT, 3)
    dataset = write(tmp_path, series_spec("abc"), rows, np.arange(COUNT) % 3)
    found = FITS["series"](dataset, TRAIN, tmp_path).transform
    steps = rows[TRAIN].values.astype(float)
    np.testing.assert_allclose(found.mean, np.nanmean(steps, axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.std, np.nanstd(steps, axis=0), rtol=1e-9)


def test_targets_of_a_regression_are_scaled_by_training(tmp_path: Path) -> None:
    targets = np.random.default_rng(4).normal((5, -300), (2, 40), (COUNT, 2)).astype(np.float32)
    dataset = write(tmp_path, table_spec((), "xy"), table_rows(COUNT, 5), targets)
    found = FITS["table"](dataset, TRAIN, tmp_path).transform
    np.testing.assert_allclose(found.target_mean, targets[TRAIN].mean(0, dtype=float), rtol=1e-9)
    np.testing.assert_allclose(found.target_std, targets[TRAIN].std(0, dtype=float), rtol=1e-6)


def test_a_tokenizer_learns_from_training_and_gives_every_text_tokens(tmp_path: Path) -> None:
    texts = [
        f"{text} {'seen' if mine else 'unheard'} " * 9 for text, mine in zip(TEXTS * 20, TRAIN, strict=False)
    ]
    dataset = write(tmp_path, text_spec("abc"), text_rows(texts), np.arange(len(texts)) % 3)
    fitted = FITS["text"](dataset, TRAIN[: len(texts)], tmp_path)
    vocabulary = (tmp_path / "tokenizer.json").read_text()
    assert "seen" in vocabulary
    assert "unheard" not in vocabulary
    chunk = fitted.encode(next(dataset.chunks()))
    tokens = chunk["tokens"]
    assert isinstance(tokens, Ragged)
    assert fitted.spec.input.name == "tokens"
    assert chunk.keys() == {"tokens", "label", "id"}
    assert tokens.lengths.min() >= 1
    assert tokens.values.min() >= 1, "0 fills up what is shorter"
    assert tokens.values.max() < fitted.transform.tokens
    assert isinstance(fitted.transform, Transform)


# Golden requests


def test_golden_rows_of_a_regression_go_from_the_lowest_answer_to_the_highest() -> None:
    outputs = np.random.default_rng(0).random((100, 2))
    chosen = spread(outputs, 5)
    said = outputs[chosen, 0]
    assert said[0] == outputs[:, 0].min()
    assert said[-1] == outputs[:, 0].max()
    assert sorted(said) == said.tolist()
    assert len(chosen) == len(set(chosen)) == 5
    assert len(spread(outputs[:3], 16)) == 3, "no more than there are"


def test_golden_rows_of_a_classification_hold_every_class_sure_and_unsure() -> None:
    labels = np.arange(60) % 3
    sure = np.linspace(0.34, 0.99, 60)
    outputs = np.where(np.arange(3) == labels[:, None], sure[:, None], (1 - sure[:, None]) / 2)
    chosen = choose(labels, outputs, 6)
    assert sorted(labels[chosen].tolist()) == [0, 0, 1, 1, 2, 2]
    assert {57, 58, 59} <= set(chosen), "the surest of each"
    assert {0, 1, 2} <= set(chosen), "and the least sure"
    assert len(choose(labels[:4], outputs[:4], 16)) == 4
