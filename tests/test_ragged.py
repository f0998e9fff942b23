"""Rows of unequal length: in memory, in a data set folder, and in batches, always the rows that went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.dataset import Dataset, DatasetWriter, identities
from pipeline.fitting import batches
from pipeline.fitting.batches import Batches
from serving.inputs.ragged import Ragged, filling, gather
from tests.modalities import series_rows, series_spec, table_rows, table_spec, write

CPU = torch.device("cpu")


def pieces(count: int, seed: int, shape: tuple[int, ...] = (2,), shortest: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(size, *shape)).astype(np.float32) for size in draw.integers(shortest, 6, count)]


def same(found: Ragged, expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    assert found.lengths.tolist() == [len(row) for row in expected]
    for at, row in enumerate(expected):
        np.testing.assert_array_equal(found[at], row)


# In memory


@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
def test_every_row_comes_back_by_its_number(shape: tuple[int, ...]) -> None:
    rows = pieces(20, 0, shape)
    assert min(map(len, rows)) == 0, "empty rows are among them"
    ragged = Ragged.of(rows, "<f4", shape)
    same(ragged, rows)
    assert ragged.values.dtype == np.float32
    for at in (-1, -20, np.int64(3)):
        np.testing.assert_array_equal(ragged[at], rows[at])
    for at in (20, -21):
        with pytest.raises(IndexError):
            ragged[at]


@pytest.mark.parametrize("name", ["slice", "steps", "back", "mask", "numbers", "repeated", "none", "no rows"])
def test_rows_are_taken_as_numpy_takes_them(name: str) -> None:
    rows = pieces(30, 1)
    at = {
        "slice": slice(5, 17), "steps": slice(1, None, 3), "back": slice(None, None, -1),
        "mask": np.random.default_rng(0).random(30) < 0.4, "numbers": np.array([7, 2, -1, 20]),
        "repeated": np.array([3, 3, 0, 3]), "none": np.zeros(30, bool), "no rows": slice(4, 4),
    }[name]  # fmt: skip
    taken = Ragged.of(rows, "<f4", (2,))[at]
    same(taken, [rows[number] for number in np.arange(30)[at]])
    again = taken[::-1]
    same(again, [rows[number] for number in np.arange(30)[at]][::-1])


def test_what_is_taken_is_a_copy() -> None:
    ragged = Ragged.of(pieces(5, 2, shortest=1), "<f4", (2,))
    before = ragged.values.copy()
    ragged[2][:] = 9
    ragged[1:4].values[:] = 9
    np.testing.assert_array_equal(ragged.values, before)


@pytest.mark.parametrize(("dtype", "fill"), [("<f4", np.nan), ("<i4", 0)])
def test_shorter_rows_are_filled_up_at_their_end(dtype: str, fill: float) -> None:
    rows = [(row * 100).astype(dtype) for row in pieces(12, 3)]
    batch = Ragged.of(rows, dtype, (2,)).padded(filling(dtype))
    assert batch.shape == (12, max(map(len, rows)), 2)
    assert batch.dtype == np.dtype(dtype)
    for row, found in zip(rows, batch, strict=True):
        np.testing.assert_array_equal(found[: len(row)], row)
        np.testing.assert_array_equal(found[len(row) :], np.full_like(found[len(row) :], fill))


def test_nothing_at_all_is_still_a_batch() -> None:
    empty = Ragged.of([], "<f4", (2,))
    assert len(empty) == 0
    assert empty.padded(0).shape == (0, 1, 2)
    assert Ragged.of([np.zeros((0, 2))], "<f4", (2,)).padded(0).shape == (1, 1, 2)


def test_gathered_rows_have_the_form_of_their_column() -> None:
    rows = pieces(4, 4)
    same(gather(rows, series_spec("ab").input), rows)
    flat = list(table_rows(4, 0))
    np.testing.assert_array_equal(gather(flat, table_spec("ab").input), np.stack(flat))
    assert gather([], table_spec("ab").input).shape == (0, 6)


# In a folder


def test_a_folder_gives_back_what_was_written_in_pieces(tmp_path: Path) -> None:
    rows, spec = series_rows(100, 0), series_spec("ab")
    labels = np.arange(100) % 2
    with DatasetWriter(tmp_path, spec) as writer:
        for low, high in ((0, 40), (40, 40), (40, 41), (41, 100)):
            piece = rows[low:high]
            writer.append({"series": piece, "label": labels[low:high], "id": identities(piece)})
    dataset = Dataset(tmp_path)
    assert len(dataset) == 100
    same(dataset.inputs, [rows[at] for at in range(100)])
    np.testing.assert_array_equal(dataset.targets, labels)
    read = list(dataset.chunks(rows=33))
    assert [len(chunk["series"]) for chunk in read] == [33, 33, 33, 1]
    same(read[1]["series"], [rows[at] for at in range(33, 66)])
    np.testing.assert_array_equal(read[3]["label"], labels[99:])
    assert sum(len(part) for part in dataset.input_chunks(7)) == 100


def test_ids_tell_rows_apart_by_content_and_by_length() -> None:
    one = np.ones((2, 2), np.float32)
    ids = identities(Ragged.of([one, one, np.ones((3, 2), np.float32)], "<f4", (2,)))
    assert ids[0] == ids[1] != ids[2]


# In batches


@pytest.fixture(params=["table", "series"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """70 rows with 3 targets each, which are the row's number."""
    targets = np.arange(70, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    if request.param == "table":
        return write(tmp_path / "set", table_spec((), "xyz"), table_rows(70, 1), targets)
    return write(tmp_path / "set", series_spec((), "xyz"), series_rows(70, 1), targets)


def expected(dataset: Dataset, numbers: np.ndarray) -> np.ndarray:
    taken = dataset.inputs[numbers]
    return taken.padded(np.nan) if isinstance(taken, Ragged) else taken


@pytest.mark.parametrize("on_disk", [False, True])
def test_batches_hold_the_rows_of_their_targets(
    dataset: Dataset, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the data set is too large for memory, which no memory at all makes it."""
    if on_disk:
        monkeypatch.setattr(batches, "SHARE", 0.0)
    for seed in (None, 5):
        made = Batches(dataset.folder, 16, CPU, seed)
        assert made._inputs.on_disk == on_disk
        seen = []
        for inputs, targets in made:
            numbers = targets[:, 0].numpy().astype(int)
            np.testing.assert_array_equal(inputs.numpy(), expected(dataset, numbers))
            assert targets.shape == (len(numbers), 3)
            seen += numbers.tolist()
        assert sorted(seen) == list(range(70))
        assert (seen == sorted(seen)) == (seed is None)


def test_an_epochs_order_follows_from_seed_and_number_alone(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(seed: int, epoch: int) -> list[float]:
        made = Batches(dataset.folder, 16, CPU, seed)
        made.set_epoch(epoch)
        return torch.cat([targets[:, 0] for _, targets in made]).tolist()

    first = order(5, 0)
    assert order(5, 0) == first
    assert order(5, 1) != first
    assert order(6, 0) != first
    monkeypatch.setattr(batches, "SHARE", 0.0)
    assert order(5, 0) == first


def test_training_leaves_a_last_batch_of_one_out_and_judging_does_not(dataset: Dataset) -> None:
    for size, training, judging in ((23, 3, 4), (35, 2, 2), (100, 1, 1)):
        for seed, count in ((1, training), (None, judging)):
            made = Batches(dataset.folder, size, CPU, seed)
            assert len(made) == len(list(made)) == count
