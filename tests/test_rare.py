"""What a generator is to rare classes: images for training, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import augment, rare
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from tests.conftest import write_dataset
from tests.generators import FITTED, halves
from tests.small import CPU, table_spec, write

pytestmark = pytest.mark.usefixtures("one_thread")


def test_rare_classes_are_filled_up_from_the_training_split(tmp_path: Path) -> None:
    images, labels = halves(90, 0, rare=20)
    train = write_dataset(tmp_path / "train", images, labels, ("a", "b"))
    small = rare.Gan(max_epochs=8, batch_size=16, lr=0.004, width=6, depth=1, latent=4)
    settings = augment.Augment(factor=0, oversample="gan", gan=small)
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        assert augment.augment(train, FITTED, settings, 3, out, CPU) == 140
    made = Dataset(outs[0])
    assert np.bincount(made.targets).tolist() == [70, 70]
    assert made.spec == train.spec
    np.testing.assert_array_equal(made.inputs[:90], images)
    new = np.array(made.inputs[90:], float)
    assert (new[:, 0, 4:].mean((1, 2)) > new[:, 0, :4].mean((1, 2))).mean() > 0.9, (
        "they are of the rare class"
    )
    assert len(set(np.array(made.column("id")))) > 130, "with ids of their own"
    assert (outs[0] / "image.npy").read_bytes() == (outs[1] / "image.npy").read_bytes()


def test_a_gan_is_refused_where_there_are_no_images_of_classes(tmp_path: Path) -> None:
    rows = np.ones((10, 2), np.float32)
    data = Dataset(write(tmp_path / "train", table_spec(["number"] * 2), rows, np.arange(10) % 2))
    with pytest.raises(
        UserError, match=r"'gan' makes images of classes, and this is table.*there is 'smote'"
    ):
        augment.augment(data, FITTED, augment.Augment(oversample="gan"), 0, tmp_path / "out")


def test_balanced_classes_need_no_gan(tmp_path: Path) -> None:
    train = write_dataset(tmp_path / "train", *halves(20, 0), ("a", "b"))
    images, labels = rare.generate(train, FITTED, rare.Gan(), 0, CPU)
    assert images.shape == (0, 1, 8, 8)
    assert len(labels) == 0
