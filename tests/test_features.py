"""Features of a frozen trunk: computed once, used by all, made anew where they are not what was written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.fitting import features as kept
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, assemble, fit
from tests.conftest import write_dataset
from tests.test_transfer import CLASSES, inside, picture_job, pictures

__all__ = ["inside"]
pytestmark = pytest.mark.usefixtures("one_thread", "inside")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that went through the trunk."""
    names: list[str] = []
    real = kept._compute

    def counting(*given: Any) -> None:
        names.extend(part.name for part in given if isinstance(part, Path) and part.is_dir())
        names.extend(part for part in given if isinstance(part, str))
        real(*given)

    monkeypatch.setattr(kept, "_compute", counting)
    return names


def uncached(job: Job) -> Job:
    return dataclasses.replace(job, compute=Compute(accelerator="cpu", threads=1, cache_features=False))


def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(kept.FOLDER.iterdir())}


def test_with_and_without_them_a_training_is_the_same(tmp_path: Path, computed: list[str]) -> None:
    """Curves and weights up to rounding, and what comes back is the whole network."""
    job = picture_job(tmp_path, {"depth": 1, "width": 8}, class_weights="balanced", sampling="over")
    curves: dict[str, list[list[float]]] = {"cached": [], "plain": []}

    def told(name: str) -> Any:
        names = ("train_loss", "val_loss", "val_score", "lr")
        return lambda _, metrics: curves[name].append([metrics[key] for key in names])

    cached = fit(job, [told("cached")], tmp_path / "checkpoints")
    plain = fit(uncached(job), [told("plain")], tmp_path / "checkpoints")
    assert computed == ["train", "val"]
    np.testing.assert_allclose(curves["cached"], curves["plain"], atol=1e-4)
    expected = plain.state_dict()
    assert cached.state_dict().keys() == expected.keys()
    for name, tensor in cached.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-4)
    rows = torch.from_numpy(pictures(6, 9)[0])
    torch.testing.assert_close(cached(rows), plain(rows), atol=1e-4, rtol=1e-4)


def test_they_are_computed_once_for_the_same_samples(tmp_path: Path, computed: list[str]) -> None:
    fit(picture_job(tmp_path, max_epochs=1), [])
    first = files()
    assert len(first) == 4
    fit(picture_job(tmp_path, {"dropout": 0.4}, max_epochs=1, lr=0.01), [])
    assert computed == ["train", "val"]
    write_dataset(tmp_path / "val", *pictures(12, 5), CLASSES)
    fit(picture_job(tmp_path, max_epochs=1), [])
    assert computed == ["train", "val", "val"]
    assert first.items() < files().items()


@pytest.mark.parametrize("harm", ["bit", "short", "no sum", "other sum"])
def test_what_is_not_as_it_was_written_is_made_anew(tmp_path: Path, computed: list[str], harm: str) -> None:
    assemble(picture_job(tmp_path))
    first = files()
    path = next(kept.FOLDER.glob("*.npy"))
    raw = bytearray(path.read_bytes())
    if harm == "bit":
        raw[-3] ^= 64
        path.write_bytes(raw)
    elif harm == "short":
        path.write_bytes(raw[: len(raw) // 2])
    elif harm == "no sum":
        path.with_suffix(".sha256").unlink()
    else:
        path.with_suffix(".sha256").write_text("0" * 64)
    (kept.FOLDER / f"{path.stem}.1.new").write_bytes(b"a kill left this")
    assemble(picture_job(tmp_path))
    assert len(computed) == 3
    assert first.items() < files().items()


@pytest.mark.parametrize(
    ("settings", "lifted"),
    [
        ({}, True),
        ({"label_smoothing": 0.1, "ema": 0.5, "sampling": "under"}, True),
        ({"unfreeze": 1}, False),
        ({"mixup": 0.2}, False),
        ({"cutmix": 1.0}, False),
        ({"augmentation": {"strength": 1.0}}, False),
    ],
)
def test_only_what_never_changes_is_kept(tmp_path: Path, settings: dict[str, Any], lifted: bool) -> None:
    job = picture_job(tmp_path, **settings)
    task, train, _ = assemble(job)
    assert task.served.lifted == lifted
    assert next(iter(train))[0].shape[1:] == ((1280,) if lifted else (3, 32, 32))
    assert kept.FOLDER.exists() == lifted
    assert not assemble(uncached(job))[0].served.lifted
