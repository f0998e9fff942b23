"""Pictures of explanations: the colours lie where the model looks, whatever form the request had."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.explaining import draw, strongest
from serving.inputs.image import encode_png
from serving.worker.explain import loaded
from serving.worker.messages import Request
from serving.worker.worker import Worker
from tests.planted import CHANNEL, COLUMN, WORD, picture, planted

STEPS = [[float(at % 3), 2.0 if 6 <= at < 10 else 0.0] for at in range(60)]
PNG = encode_png(picture())
LARGE = io.BytesIO()
Image.fromarray(picture()[0]).resize((90, 120)).convert("RGB").save(LARGE, "JPEG")
BODIES = {
    "image": [
        PNG,
        LARGE.getvalue(),
        json.dumps({"image": base64.b64encode(PNG).decode()}).encode(),
        json.dumps({"pixels": picture()[0].tolist()}).encode(),
    ],
    "table": [
        b'{"age": 30, "income": 0.9, "member": null, "colour": "red"}',
        b"colour,member,income,age\nred,,0.9,30\n",
        b"30,0.9,,red",
    ],
    "series": [
        json.dumps({"series": STEPS}).encode(),
        "\n".join(["left,right", *(f"{left},{right}" for left, right in STEPS)]).encode(),
        json.dumps([[None, right] for _, right in STEPS]).encode(),
    ],
    "text": [f"the food was {WORD} , $very good".encode(), json.dumps({"text": WORD}).encode()],
}
EXPECTED = {
    "image": "rows 7 to 14, columns 14 to 21",
    "table": COLUMN,
    "series": ("left", "right")[CHANNEL] + ", steps 6 to 8",
    "text": WORD,
}


@pytest.fixture(scope="module", autouse=True)
def captum() -> None:
    assert loaded(300)


def red(path: Path) -> np.ndarray:
    """Which pixels of a picture are red (H, W)."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    found: np.ndarray = pixels[..., 0] - pixels[..., 1] > 40
    return found


@pytest.mark.parametrize("modality", BODIES)
def test_what_decides_is_named_first_and_red(tmp_path: Path, modality: str) -> None:
    worker = Worker(planted(tmp_path / "bundle", modality))
    for number, body in enumerate(BODIES[modality]):
        told = json.loads(worker.answer([Request("r", body, {}, "explain")])[0].body)
        names = [name for name, _ in strongest(told)]
        assert EXPECTED[modality] in names[:2], number
        draw(told, body, tmp_path / "drawn.png")
        assert 0 < red(tmp_path / "drawn.png")[80:, :].mean() < 0.4, number


def test_the_red_of_an_image_lies_on_its_patch(tmp_path: Path) -> None:
    worker = Worker(planted(tmp_path / "bundle", "image"))
    told = json.loads(worker.answer([Request("r", PNG, {}, "explain")])[0].body)
    draw(told, PNG, tmp_path / "drawn.png")
    found = red(tmp_path / "drawn.png")
    height, width = found.shape
    map_only = found[:, width * 2 // 5 : width * 4 // 5]  # between the image and the scale of colours
    rows, columns = np.nonzero(map_only)
    assert 0.15 * height < rows.mean() < 0.5 * height
    assert columns.mean() > 0.4 * map_only.shape[1]
    assert not found[height // 2 + 20 :, : width * 4 // 5].any()


def test_nothing_that_decides_is_no_feature() -> None:
    told = {"attributions": {"a": 0.0, "b": -0.5}, "target": "yes", "score": 1.0, "model_version": "1"}
    assert strongest(told) == [("b", -0.5)]
