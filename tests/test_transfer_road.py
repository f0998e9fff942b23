"""The road with a pre-trained trunk: cells of photographs as PNG, features computed once, and a real TorchServe."""

from __future__ import annotations

import numpy as np
import pytest

from models.efficientnet import WEIGHTS, state
from models.served import load
from models.transfer import Transfer
from pipeline.fitting.pretrained import weights_file
from tests.project import ROOT, Project
from tests.recipes import walk

pytestmark = pytest.mark.slow


SMALL = {
    "data": {"image": {"height": 32, "width": 32, "channels": 3}},
    "tune": {"trials": 2, "max_epochs": 1}, "train": {"max_epochs": 12},
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, runs: str) -> Project:
    return walk(tmp_path_factory.mktemp("photos"), ROOT / "recipes" / "images-transfer.yaml", runs, SMALL)


def test_the_road_ends_with_a_certified_model(photos: Project) -> None:
    receipt = photos.json("data/promote/receipt.json")
    assert receipt["verdict"] == "promoted"
    assert receipt["name"] == "photos"
    same = {entry["backend"]: entry["same"] for entry in receipt["certified"]["comparisons"]}
    assert all(same.values())
    assert {"torchserve, golden requests", "torchserve, 4 connections", "onnx", "pt2"} <= same.keys()
    golden = {file.suffix for file in (photos.folder / "data/export/bundle/golden").iterdir()}
    assert golden == {".png", ".json"}


def test_features_were_computed_once_for_trials_and_training(photos: Project) -> None:
    found = sorted((photos.folder / ".fairlead/features").glob("*.npy"))
    assert len(found) == 2  # of train and of val; never of the test
    rows = sum(len(np.load(path, mmap_mode="r")) for path in found)
    shown = [
        np.load(photos.folder / f"data/{part}/label.npy", mmap_mode="r")
        for part in ("augment", "prepare/val")
    ]
    assert rows == sum(map(len, shown))


def test_the_whole_network_is_shipped_with_the_weights_that_came(photos: Project) -> None:
    served = load(photos.folder / "data/export/bundle")
    assert isinstance(served.net, Transfer)
    trunk = served.net.trunk.state_dict()
    assert all(tensor.equal(trunk[name]) for name, tensor in state(weights_file(WEIGHTS)).items())
