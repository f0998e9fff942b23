"""The road with a frozen MiniLM and its tokenizer under a head of ours, on a user's own few texts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.road import SHRUNK, Road
from tests.test_text_road import write_reviews

pytestmark = pytest.mark.slow


def test_a_frozen_trunk_is_certified_with_its_own_tokenizer(tmp_path: Path) -> None:
    road = Road(tmp_path)
    write_reviews(road.folder / "data" / "raw", 24)
    shutil.copy(road.folder / "recipes" / "reviews-transfer.yaml", road.folder / "params.yaml")
    road.set(SHRUNK)
    road.set(
        {
            "data": {"source": "text", "text_column": "body", "target": ["verdict"], "group": "user"},
            "prepare": {"val": 0.25, "test": 0.25},
            "tune": {"trials": 0},
            "train": {"max_epochs": 8, "batch_size": 8},
            "server": {"workers": 1},
        }
    )
    road.run("dvc", "repro", "certify")
    certified = road.json("data/certify/report.json")
    same = {entry["backend"]: entry["same"] for entry in certified["comparisons"]}
    assert all(same.values())
    assert {"torchserve, golden requests", "torchserve, 8 connections", "onnx", "pt2"} <= same.keys()
    assert road.json("data/train/model.json")["family"] == "transfer"
    raw = (road.folder / "data/export/bundle/tokenizer.json").read_bytes()
    assert b"WordPiece" in raw
    assert road.digest("data/export/bundle/tokenizer.json") == road.digest(
        "data/prepare/transform/tokenizer.json"
    )
    assert len(list((road.folder / ".fairlead/features").glob("*.npy"))) == 2  # of train and val
