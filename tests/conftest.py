"""What several test files share: learnable pictures, folders made of them, and a project to run stages in."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipeline.core import params
from pipeline.core.dataset import Dataset, DatasetWriter, image_columns
from serving.inputs.spec import DataSpec, ImageInput

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def fresh_params() -> None:
    """`params.section` caches by path and time: two projects of one name and time must not share a file."""
    params._read.cache_clear()


def digits(n: int, seed: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 28, 28) uint8 and labels (N,): a pattern a class, shifted and noisy, so learnable.

    The patterns depend on nothing but the class, the samples on `seed`; no two samples are alike.
    """
    patterns = np.random.default_rng(1234).integers(0, 2, (classes, 5, 5)).repeat(4, axis=1).repeat(4, axis=2)
    draw = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % classes
    images = draw.integers(0, 40, (n, 1, 28, 28), dtype=np.uint8)
    for image, label, (down, across) in zip(images, labels, draw.integers(2, 7, (n, 2)), strict=True):
        image[0, down : down + 20, across : across + 20] += (200 * patterns[label]).astype(np.uint8)
    return images, labels


def identities(images: np.ndarray) -> np.ndarray:
    """The `id` column (N,) S64 of images (N, C, H, W), as `ingest` writes it."""
    return np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images], "S64")


def spec_of(shape: tuple[int, ...], classes: Sequence[str]) -> DataSpec:
    """The spec of images of `shape`, (C, H, W)."""
    size = ImageInput.model_validate({"channels": shape[0], "height": shape[1], "width": shape[2]})
    return DataSpec(
        modality="image", task="classification", source="test",
        columns=image_columns(shape), classes=tuple(classes), image=size,
    )  # fmt: skip


def write_dataset(
    folder: Path, images: np.ndarray, labels: np.ndarray, classes: Sequence[str] = tuple("0123456789")
) -> Dataset:
    """A data set folder of images (N, C, H, W) and labels (N,)."""
    with DatasetWriter(folder, spec_of(images.shape[1:], classes)) as writer:
        writer.append({"image": images, "label": labels.astype(np.int64), "id": identities(images)})
    return Dataset(folder)


def write_image_folder(
    root: Path, classes: Sequence[str], per_class: int, suffix: str = "png", seed: int = 0
) -> np.ndarray:
    """`root/<class>/<number>.<suffix>`; returns the images (N, 1, 28, 28) in the order of their paths."""
    images, labels = digits(len(classes) * per_class, seed, len(classes))
    kept = []
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number, image in enumerate(images[labels == label]):
            Image.fromarray(image[0]).save(root / name / f"{number:04}.{suffix}")
            kept.append(image)
    return np.stack(kept)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the repository's `params.yaml`, which is the working directory for the test."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def set_params(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change values of `params.yaml` by their dotted keys; a key that is not there is a mistake."""
    content = yaml.safe_load((folder / "params.yaml").read_text())
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        at = content
        for part in path:
            at = at[part]
        assert last in at, dotted
        at[last] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    params._read.cache_clear()


def run_stage(name: str, folder: Path, **popen: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m pipeline.<name>` in a project folder, as DVC does."""
    return subprocess.run(
        [sys.executable, "-m", f"pipeline.{name}"], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False, **popen,
    )  # fmt: skip


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny networks are several times faster on one thread, above all beside other busy processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniLM small, for what holds at any size; `test_minilm` looks at the real one."""
    from models.transfer import TRUNKS
    from tests.samples import small_text_trunk

    monkeypatch.setitem(TRUNKS, "text", small_text_trunk())
