"""The road with a frozen MiniLM and its tokenizer under a head of ours, on a user's own few texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project import ROOT
from tests.recipes import walk
from tests.test_text_road import write_reviews

pytestmark = pytest.mark.slow
SMALL = {
    "data": {"source": "text", "text_column": "body", "target": ["verdict"], "group": "user"},
    "prepare": {"val": 0.25, "test": 0.25}, "train": {"max_epochs": 8, "batch_size": 8},
}  # fmt: skip


def test_a_frozen_trunk_is_certified_with_its_own_tokenizer(tmp_path: Path, runs: str) -> None:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    write_reviews(tmp_path / "data" / "raw", 24)
    texts = walk(tmp_path, ROOT / "recipes" / "reviews-transfer.yaml", runs, SMALL)
    certified = texts.json("data/certify/report.json")
    same = {entry["backend"]: entry["same"] for entry in certified["comparisons"]}
    assert all(same.values())
    assert {"torchserve, golden requests", "torchserve, 4 connections", "onnx", "pt2"} <= same.keys()
    assert texts.json("data/train/model.json")["family"] == "transfer"
    shipped = tmp_path / "data/export/bundle/tokenizer.json"
    assert b"WordPiece" in shipped.read_bytes()
    assert shipped.read_bytes() == (tmp_path / "data/prepare/transform/tokenizer.json").read_bytes()
    assert len(list((tmp_path / ".fairlead/features").glob("*.npy"))) == 2  # of train and val
