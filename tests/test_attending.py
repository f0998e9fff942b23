"""Attention is drawn for a transformer of every modality, for nothing else, and follows the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.params import Model
from models.served import Served, save
from pipeline import attending
from pipeline.core.dataset import Dataset
from tests.samples import spec_of, transform_of
from tests.test_job import written

SMALL = Model(family="transformer", width=8, depth=2, heads=2)


def shaped(folder: Path, modality: str, family: str = "transformer") -> tuple[Path, Dataset]:
    """A model that was never fitted, and data of its modality."""
    dataset = written(folder / "test", modality, 12, 1)
    params = SMALL.model_copy(update={"family": family})
    torch.manual_seed(0)
    served = Served(params, dataset.spec, transform_of(spec_of(modality)))
    (folder / "model").mkdir()
    save(served.eval(), params, dataset.spec, transform_of(spec_of(modality)), folder / "model")
    if modality == "text":
        from tokenizers import Tokenizer, models

        words = {f"word{at}": at for at in range(100)}
        Tokenizer(models.WordLevel(words, unk_token="word0")).save(str(folder / "model" / "tokenizer.json"))
    return folder / "model", dataset


@pytest.mark.parametrize("modality", ["image", "series", "table", "text"])
def test_every_modality_is_drawn(modality: str, tmp_path: Path) -> None:
    model, dataset = shaped(tmp_path, modality)
    assert attending.draw(model, dataset, tmp_path / "attention.png")
    with Image.open(tmp_path / "attention.png") as picture:
        assert picture.size == (1100, 680)
        assert int((np.asarray(picture.convert("L")) < 250).sum()) > 5000
    from models.served import load

    sample = np.asarray(dataset.inputs[3])
    weights = attending.weights_of(load(model), sample)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    if modality in ("series", "text"):
        assert len(weights) == len(sample)
    if modality == "table":
        assert len(weights) == sample.shape[0]


def test_a_network_without_attention_has_no_picture(tmp_path: Path) -> None:
    model, dataset = shaped(tmp_path, "image", "cnn")
    assert not attending.draw(model, dataset, tmp_path / "attention.png")
    assert not (tmp_path / "attention.png").exists()


def test_the_picture_follows_the_weights() -> None:
    from matplotlib.figure import Figure

    sample = np.full((1, 28, 28), 100, np.uint8)
    weights = np.zeros(49)
    weights[3 * 7 + 5] = 1  # the patch in row 3 and column 5, of 4x4 pixels
    axes = Figure().add_subplot()
    attending.on_image(axes, sample, weights, None, Path())  # type: ignore[arg-type]
    heat = np.asarray(axes.get_images()[1].get_array())
    assert heat.shape == (28, 28)
    assert np.argwhere(heat > 0).min(0).tolist() == [12, 20]
    assert np.argwhere(heat > 0).max(0).tolist() == [15, 23]
