"""The whole road of a generator, on its recipe with digits of 12x12 pixels."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from serving.predictor import Predictor
from tests.project import ROOT, Project
from tests.recipes import walk

pytestmark = pytest.mark.slow
SMALL = {
    "data": {"image": {"height": 12, "width": 12, "channels": 1}},
    "model": {"width": 8, "latent": 16},
    "train": {"max_epochs": 4, "batch_size": 64, "lr": 0.004},
}  # fmt: skip


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory, runs: str) -> Project:
    return walk(tmp_path_factory.mktemp("gan"), ROOT / "recipes" / "gan.yaml", runs, SMALL)


def test_the_live_images_are_those_that_were_evaluated(gan: Project) -> None:
    receipt = gan.json("data/promote/receipt.json")
    assert receipt["name"] == "gan"
    same = {entry["backend"]: entry["same"] for entry in receipt["certified"]["comparisons"]}
    assert all(same.values())
    assert {"torchserve, golden requests", "torchserve, 4 connections", "onnx", "pt2", "eager"} <= same.keys()


def test_it_is_judged_beside_the_mean_images(gan: Project) -> None:
    compared = gan.json("data/promote/receipt.json")["compared"]
    assert compared["over_trivial_baseline"]["value"] > 0
    measured = gan.json("data/evaluate/metrics.json")
    assert measured["frechet"]["low"] < measured["frechet"]["value"] < measured["frechet"]["high"]
    assert measured["agreement"]["value"] > 0.5
    assert measured["copied"]["value"] < 0.2


def test_golden_requests_are_answered_without_a_server(gan: Project) -> None:
    bundle = gan.folder / "data/export/bundle"
    golden = json.loads((bundle / "golden/golden.json").read_text())["requests"][0]
    (answer,) = Predictor(bundle).answer([(bundle / "golden" / golden["file"]).read_bytes()])
    assert isinstance(answer, dict)
    assert (answer["label"], answer["seed"]) == (golden["label"], golden["seed"])
    assert Image.open(io.BytesIO(base64.b64decode(answer["image"]))).size == (12, 12)


def test_pictures_and_the_card_are_there(gan: Project) -> None:
    page = (gan.folder / "data/promote/report.html").read_text()
    assert "Generated images, a row a class" in page
    assert "Most like a training image" in page
    card = (gan.folder / "data/export/bundle/README.md").read_text()
    assert "takes a class and a seed and makes an image of one of 10 classes" in card
