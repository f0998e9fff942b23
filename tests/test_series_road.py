"""The road with series of unequal length: the packaged vowels and a real TorchServe.

The network is convolutional, as a recurrent one takes long to export; tests of models export those.
"""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from pipeline.core.dataset import Dataset
from tests.project import ROOT, Project
from tests.recipes import walk

pytestmark = pytest.mark.slow


SMALL = {
    "model": {"family": "cnn", "width": 16, "depth": 1},
    "train": {"max_epochs": 10, "lr": 0.01, "batch_size": 32},
}


@pytest.fixture(scope="module")
def vowels(tmp_path_factory: pytest.TempPathFactory, runs: str) -> Project:
    return walk(tmp_path_factory.mktemp("vowels"), ROOT / "recipes" / "vowels.yaml", runs, SMALL)


def test_the_road_ends_with_a_certified_model(vowels: Project) -> None:
    receipt = vowels.json("data/promote/receipt.json")
    assert receipt["verdict"] == "promoted"
    assert receipt["name"] == "vowels"
    assert vowels.json("data/evaluate/metrics.json")["accuracy"]["value"] > 0.8
    same = {entry["backend"]: entry["same"] for entry in receipt["certified"]["comparisons"]}
    assert all(same.values())
    assert {"torchserve, golden requests", "torchserve, 4 connections", "onnx", "pt2"} <= same.keys()


def test_both_files_are_split_anew_and_each_series_keeps_its_length(vowels: Project) -> None:
    with (vowels.folder / "data/ingest/manifest.csv").open(newline="") as lines:
        files = [row["origin"].partition(":")[0] for row in csv.DictReader(lines)]
    whole = Dataset(vowels.folder / "data/ingest")
    place = {bytes(identity): at for at, identity in enumerate(np.array(whole.column("id")))}
    seen = 0
    for name in ("train", "val", "test"):
        split = Dataset(vowels.folder / "data/prepare" / name)
        rows = [place[bytes(identity)] for identity in np.array(split.column("id"))]
        assert {files[row] for row in rows} == {"JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts"}
        np.testing.assert_array_equal(split.inputs.lengths, whole.inputs.lengths[rows])
        np.testing.assert_array_equal(split.inputs.values, whole.inputs[np.array(rows)].values)
        seen += len(rows)
    assert seen == len(whole) == 640
    assert len(set(whole.inputs.lengths.tolist())) > 10


def test_golden_requests_are_json_and_csv_of_raw_values(vowels: Project) -> None:
    golden = vowels.folder / "data/export/bundle/golden"
    names = {file.name for file in golden.iterdir()}
    assert {"000.json", "000.csv", "015.json", "golden.json"} <= names
    steps = json.loads((golden / "000.json").read_text())["series"]
    table = list(csv.reader((golden / "000.csv").read_text().splitlines()))
    assert len(table) == len(steps) + 1
    assert [float(cell) for cell in table[1]] == steps[0]
