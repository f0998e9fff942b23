"""The road with a user's own texts: CSV files in data/raw, a tokenizer, a real TorchServe."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.project import ROOT, Project
from tests.recipes import walk

pytestmark = pytest.mark.slow
WORDS = {
    "good": ["fine", "lovely", "Gr\u00fc\u00dfe", "tasty"],
    "bad": ["stale", "awful", "poor", "\u00fcbel"],
}


def write_reviews(folder: Path, count: int) -> None:
    """Texts of two classes told apart by words, in two files; some look like JSON, some have several lines."""
    generator = np.random.default_rng(5)
    for part in range(2):
        with (folder / f"part{part}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["user", "body", "verdict"])
            for at in range(count):
                verdict = ("good", "bad")[at % 2]
                words = [*generator.choice(["the", "tea", "was", "and", "is"], generator.integers(3, 30)),
                         *generator.choice(WORDS[verdict], 3), f"{part}-{at}"]  # fmt: skip
                text = ("\n" if at % 7 == 0 else " ").join(generator.permutation(words))
                table.writerow([f"u{at // 2}", f"[{text}" if at % 5 == 0 else text, verdict])


SMALL = {
    "name": "tea",
    "data": {"source": "text", "text_column": "body", "target": ["verdict"], "group": "user"},
    "model": {"family": "cnn", "width": 16, "depth": 1, "kernel": 3},
    "train": {"max_epochs": 12, "batch_size": 16, "lr": 0.01},
}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory, runs: str) -> Project:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "data" / "raw").mkdir(parents=True)
    write_reviews(folder / "data" / "raw", 160)
    return walk(folder, ROOT / "recipes" / "reviews.yaml", runs, SMALL)


def test_the_road_ends_with_a_certified_model(reviews: Project) -> None:
    receipt = reviews.json("data/promote/receipt.json")
    assert receipt["verdict"] == "promoted"
    assert reviews.json("data/evaluate/metrics.json")["accuracy"]["value"] > 0.8
    same = {entry["backend"]: entry["same"] for entry in receipt["certified"]["comparisons"]}
    assert all(same.values())
    assert {"torchserve, golden requests", "torchserve, 4 connections", "onnx", "pt2"} <= same.keys()


def test_the_tokenizer_is_shipped_and_texts_of_a_user_stay_together(reviews: Project) -> None:
    fitted = reviews.digest("data/prepare/transform/tokenizer.json")
    assert reviews.digest("data/export/bundle/tokenizer.json") == fitted
    folders = [reviews.folder / "data/prepare" / name for name in ("train", "val", "test")]
    users = [set(np.load(folder / "group.npy").tolist()) for folder in folders]
    assert all(users)
    assert sum(map(len, users)) == len(set.union(*users)) == 80


def test_golden_requests_are_the_texts_themselves(reviews: Project) -> None:
    raw = set()
    for path in (reviews.folder / "data" / "raw").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            raw |= {row["body"] for row in csv.DictReader(file)}
    golden = reviews.folder / "data/export/bundle/golden"
    requests = json.loads((golden / "golden.json").read_text())["requests"]
    assert {request["content_type"] for request in requests} == {"text/plain", "application/json"}
    for request in requests:
        content = (golden / request["file"]).read_bytes().decode()
        assert (content if request["file"].endswith(".txt") else json.loads(content)["text"]) in raw
