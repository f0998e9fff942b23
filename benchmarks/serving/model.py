"""The model that every side serves, the PNGs that they are asked about, and what they must answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.params import Model
from models.served import Served, save
from pipeline.core.dataset import image_columns
from pipeline.export import export_graphs
from serving.archive import build_archive
from serving.inputs.image import encode_png
from serving.inputs.spec import DataSpec, ImageInput, Transform, write_json
from serving.predictor import Predictor, numbers

NAME, VERSION, IMAGES = "digits", "benchmark", 64


def write_model(folder: Path) -> None:
    """A bundle, its archive, and TorchScript: the default network, never trained, as speed asks for no accuracy."""
    torch.manual_seed(0)
    spec = DataSpec(
        modality="image", task="classification", source="benchmark", columns=image_columns((1, 28, 28)),
        classes=tuple("0123456789"), image=ImageInput(),
    )  # fmt: skip
    transform, bundle = Transform(mean=(33.0,), std=(78.0,)), folder / "bundle"
    bundle.mkdir(parents=True)
    served = Served(Model(), spec, transform).eval()
    save(served, Model(), spec, transform, bundle)
    export_graphs(served, spec.input, bundle)
    write_json(bundle / "bundle.json", {"version": VERSION})
    (bundle / "golden").mkdir()
    for at, png in enumerate(pngs()[:1]):
        (bundle / "golden" / f"{at}.png").write_bytes(png)
    build_archive(bundle, folder / f"{NAME}.mar", NAME)
    traced = torch.jit.trace(served, torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
    traced.save(str(folder / "model.pt"))


def pngs() -> list[bytes]:
    """Strokes on black, so that the files are as small as those of digits, about 300 bytes."""
    draw = np.random.default_rng(0)
    images = np.zeros((IMAGES, 1, 28, 28), np.uint8)
    for image in images:
        row, column = draw.integers(6, 22, 2)
        for down, across in draw.integers(-1, 2, (40, 2)):
            row, column = np.clip((row + down, column + across), 4, 23)
            image[0, row : row + 2, column : column + 2] = draw.integers(128, 256)
    return [encode_png(image) for image in images]


def expected(bundle: Path) -> np.ndarray:
    """The probabilities (N, K) of every PNG, by the bundle itself."""
    predictor = Predictor(bundle)
    answers = [answer for answer in predictor.answer(pngs()) if isinstance(answer, dict)]
    return np.array([numbers(predictor.spec, answer) for answer in answers], np.float32)
