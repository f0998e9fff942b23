"""From a request for a generated image, `{"label": "3", "seed": 5}`, to what the network takes, and back.

The canonical row (2 + latent,) float32 holds the class number, the seed, and the noise that follows from the seed; an
output (2 + C * H * W,) the class number, the seed, and the pixels from 0 to 255. So every answer says what made it.
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from serving.inputs.body import BadInput, parse_json
from serving.inputs.image import decode_image, encode_png
from serving.inputs.spec import Column, DataSpec, read_json

HEAD = 2  # class number and seed
SEEDS = 2**24  # so many whole numbers are exact in float32


def latent_of(folder: Path) -> int:
    """Values of noise that the model in a folder takes."""
    return int(read_json(folder / "model.json")["latent"])


def request_column(latent: int) -> Column:
    """What the network takes, as a column."""
    return Column(name="request", role="input", dtype="<f4", shape=(HEAD + latent,))


def canonical(label: int, seed: int, latent: int) -> np.ndarray:
    """The row (2 + latent,) of a class number and a seed.

    `RandomState` draws, as NumPy promises that its numbers never change (NEP 19); a newer generator's may.
    """
    noise = np.random.RandomState(seed).standard_normal(latent)
    return np.concatenate([[label, seed], noise]).astype(np.float32)


def decode(body: bytes | dict[str, Any], spec: DataSpec, latent: int) -> np.ndarray:
    """The row (2 + latent,) of a JSON request; a seed that is not given is drawn, and the answer tells it.

    Raises:
        BadInput: it is no JSON object of a known `label` and a `seed` from 0 to 16777215.
    """
    content = parse_json(body)
    if not isinstance(content, dict) or not {"label"} <= content.keys() <= {"label", "seed"}:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise BadInput(f"expected a JSON object with 'label' and, if wanted, 'seed'; found {found}")
    label, seed = content["label"], content.get("seed")
    if label not in spec.classes:
        known = ", ".join(spec.classes[:20]) + (", ..." if len(spec.classes) > 20 else "")
        raise BadInput(f"'label' must be a string, one of {known}; found {label!r}")
    if seed is None:
        seed = secrets.randbelow(SEEDS)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < SEEDS:
        raise BadInput(f"'seed' must be a whole number from 0 to {SEEDS - 1}; found {seed!r}")
    return canonical(spec.classes.index(label), seed, latent)


def picture(row: np.ndarray, spec: DataSpec) -> np.ndarray:
    """The image (C, H, W) uint8 of an output (2 + C * H * W,)."""
    return row[HEAD:].reshape(spec.input_shape).round().clip(0, 255).astype(np.uint8)


def told(row: np.ndarray, spec: DataSpec) -> dict[str, Any]:
    """What one output says: `label`, `seed`, and `image`, a PNG in base64."""
    png = base64.b64encode(encode_png(picture(row, spec))).decode()
    return {"label": spec.classes[int(row[0])], "seed": int(row[1]), "image": png}


def heard(answer: dict[str, Any], spec: DataSpec) -> list[float]:
    """The output that an answer was made from, but for the rounding of its pixels."""
    assert spec.image is not None
    pixels = decode_image(base64.b64decode(answer["image"]), spec.image)
    return [spec.classes.index(answer["label"]), answer["seed"], *pixels.ravel().tolist()]
