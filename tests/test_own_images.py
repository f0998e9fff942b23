"""A user's own images: colour files of any size and kind, two commands, a certified model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import ingest, prepare, validate
from tests.project import ROOT, Project
from tests.recipes import standing_in, walk

pytestmark = pytest.mark.slow


def write_photos(root: Path, count: int) -> None:
    """Three classes told apart by shape and colour, in mixed formats and sizes."""
    generator = np.random.default_rng(5)
    for name, colour in (("bar", (220, 60, 50)), ("Cross", (60, 200, 70)), ("dot é", (70, 80, 230))):
        (root / name).mkdir(parents=True)
        for number in range(count):
            height, width = generator.integers(30, 90, 2)
            pixels = generator.integers(0, 90, (height, width, 3), np.uint8)
            rows, columns = np.mgrid[0:height, 0:width]
            y, x = generator.uniform(0.35, 0.65, 2) * (height, width)
            shapes = {
                "bar": np.abs(columns - x) < width / 8,
                "Cross": (np.abs(columns - x) < width / 12) | (np.abs(rows - y) < height / 12),
                "dot é": (rows - y) ** 2 + (columns - x) ** 2 < (min(height, width) / 4) ** 2,
            }
            pixels[shapes[name]] = np.clip(np.array(colour) + generator.integers(-30, 30, 3), 0, 255)
            picture = Image.fromarray(pixels)
            kind = number % 4
            if kind == 1:
                picture = picture.convert("P")
            elif kind == 2:
                picture.putalpha(255)
            picture.save(root / name / f"{number:03}.{'jpg' if kind == 3 else 'png'}")


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory, runs: str) -> Project:
    folder = tmp_path_factory.mktemp("own")
    write_photos(folder / "data" / "raw", 40)
    recipe = folder / "own.yaml"
    recipe.write_text((ROOT / "params.yaml").read_text().replace("name: mnist", "name: shapes"))
    image = {"height": 32, "width": 24, "channels": 3, "background": 255, "min_side": 4, "max_side": 8192}
    data = {"source": "images", "path": "data/raw", "image": image}
    return walk(folder, recipe, runs, {"data": data, "train": {"max_epochs": 12, "batch_size": 16}})


def test_the_road_ends_with_a_certified_model(leaves: Project) -> None:
    receipt = leaves.json("data/promote/receipt.json")
    assert receipt["verdict"] == "promoted"
    assert receipt["name"] == "shapes"
    assert leaves.json("data/evaluate/metrics.json")["classes"].keys() == {"Cross", "bar", "dot é"}
    assert leaves.json("data/evaluate/metrics.json")["accuracy"]["value"] > 0.7
    same = {entry["backend"]: entry["same"] for entry in receipt["certified"]["comparisons"]}
    assert all(same.values())
    assert "torchserve, golden requests" in same


def test_golden_requests_are_the_files_themselves(leaves: Project) -> None:
    golden = leaves.folder / "data/export/bundle/golden"
    requests = json.loads((golden / "golden.json").read_text())["requests"]
    files = {path.read_bytes() for path in (leaves.folder / "data" / "raw").rglob("*.*")}
    raw = [
        (golden / request["file"]).read_bytes()
        for request in requests
        if not request["file"].endswith("json")
    ]
    assert len(raw) == 16
    assert all(each in files for each in raw)
    assert {request["content_type"] for request in requests} == {
        "image/png",
        "image/jpeg",
        "application/json",
    }


def test_an_added_image_keeps_the_others_where_they_are(
    leaves: Project, runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {
        name: set(np.load(leaves.folder / f"data/prepare/{name}/id.npy")) for name in ("train", "val", "test")
    }
    generator = np.random.default_rng(9)
    pixels = generator.integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(leaves.folder / "data" / "raw" / "bar" / "000a.png")
    (leaves.folder / "data" / "raw" / "bar" / "notes.gif").write_bytes(b"GIF89a")
    with standing_in(leaves.folder, runs):
        for stage in (ingest, validate, prepare):
            stage.run()
    told = capsys.readouterr().out
    assert "1 entries are of no kind that 'images' reads and were left out" in told
    assert "bar/notes.gif" in told
    after = {name: set(np.load(leaves.folder / f"data/prepare/{name}/id.npy")) for name in before}
    assert all(before[name] <= after[name] for name in before)
    assert sum(map(len, after.values())) == sum(map(len, before.values())) + 1
