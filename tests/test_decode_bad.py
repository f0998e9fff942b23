"""The decoder of images: every broken body gives `BadInput` with its reason, and no other error."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from serving.inputs.body import BadInput
from serving.inputs.image import decode, decode_image, decode_json
from tests.conftest import spec_of
from tests.drawn import COLOUR, GREY, PIXELS, SMOOTH, png_header, saved

BAD_IMAGES = {
    "empty": (b"", "empty"),
    "text": (b"hello there", "not a PNG or JPEG"),
    "another format": (saved(PIXELS, "GIF"), "not a PNG or JPEG"),
    "a bitmap": (saved(PIXELS, "BMP"), "not a PNG or JPEG"),
    "signature only": (b"\x89PNG\r\n\x1a\n", "not a PNG or JPEG"),
    "JPEG marker only": (b"\xff\xd8\xff", "not a PNG or JPEG"),
    "1x1": (saved(np.zeros((1, 1), np.uint8)), "1x1 pixels.*between 4 and 8192"),
    "a thin strip": (saved(np.zeros((3, 90), np.uint8)), "90x3 pixels"),
    "no pixels": (png_header(16, 12), "truncated"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_picture_is_refused_with_a_reason(case: str) -> None:
    raw, reason = BAD_IMAGES[case]
    with pytest.raises(BadInput, match=reason):
        decode_image(raw, GREY)
    if raw:
        with pytest.raises(BadInput, match=reason):
            decode_json({"image": base64.b64encode(raw).decode()}, GREY)


@pytest.mark.parametrize("size", [(8_193, 6_000), (12_000, 8), (8, 12_000), (8_193, 20)])
def test_too_long_a_side_is_refused_before_any_pixel_is_decoded(size: tuple[int, int]) -> None:
    """The file holds no pixels, so decoding them would find it truncated."""
    with pytest.raises(BadInput, match=f"{size[0]}x{size[1]} pixels"):
        decode_image(png_header(*size), GREY)
    with pytest.raises(BadInput, match="truncated"):
        decode_image(png_header(min(size[0], 8_192), 20), GREY)


def test_a_bomb_within_the_longest_side_is_refused_undecoded() -> None:
    """Pillow's own limit on the number of pixels holds where `max_side` allows more."""
    image = GREY.model_copy(update={"max_side": 30_000})
    with pytest.raises(BadInput, match="exceeds limit"):
        decode_image(png_header(30_000, 30_000), image)
    with pytest.raises(BadInput, match="exceeds limit"):
        decode_image(png_header(2**31 - 1, 2**31 - 1), GREY)


def test_what_would_take_seconds_and_gigabytes_is_refused_undecoded() -> None:
    """50 megapixels, or hundreds of passes of a JPEG over its pixels, fit in a few kilobytes."""
    with pytest.raises(BadInput, match="50008000 pixels; expected 50000000 at most"):
        decode_image(png_header(8_000, 6_251), GREY)
    with pytest.raises(BadInput, match="truncated"):
        decode_image(png_header(8_000, 6_250), GREY)
    buffer = io.BytesIO()
    Image.new("L", (64, 64)).save(buffer, "JPEG", progressive=True)
    raw = buffer.getvalue()
    last = raw[raw.rfind(b"\xff\xda") : -2]
    decode_image(raw[:-2] + last * 50 + b"\xff\xd9", GREY)
    with pytest.raises(BadInput, match=r"scans of 4096 pixels"):
        decode_image(raw[:-2] + last * 100 + b"\xff\xd9", GREY)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., 0]], ids=["colour", "grey"])
def test_a_picture_cut_anywhere_is_refused(kind: str, pixels: np.ndarray) -> None:
    """Cut in its last bytes, which hold no pixel, it may also decode, and then to the whole picture."""
    raw = saved(pixels, kind)
    whole = decode_image(raw, COLOUR)
    trailer = {"PNG": 20, "JPEG": 2}[kind]  # two checksums and the end chunk; the end marker
    for cut in range(len(raw)):
        try:
            found = decode_image(raw[:cut], COLOUR)
        except BadInput:
            continue
        else:
            assert cut >= len(raw) - trailer, f"cut at {cut} of {len(raw)} bytes was taken"
            np.testing.assert_array_equal(found, whole)


SMALL = PIXELS[..., 0].tolist()


def planted(value: object) -> dict[str, object]:
    """Pixels of the right shape with one wrong value."""
    return {"pixels": [[value, *SMALL[0][1:]], *SMALL[1:]]}


BAD_JSON: dict[str, tuple[bytes | dict[str, object], str]] = {
    "cut": (b'{"image": ', "not valid JSON"),
    "empty object": (b"{}", "one key, 'image' or 'pixels'"),
    "list": (b"[1, 2]", "found list"),
    "another key": ({"picture": "x"}, "found .'picture'"),
    "both keys": ({"image": "", "pixels": []}, "one key"),
    "image is a number": ({"image": 3}, "'image' must be a base64 string; found int"),
    "image is null": ({"image": None}, "found NoneType"),
    "not base64": ({"image": "?" * 8}, "not valid base64"),
    "wrong padding": ({"image": "abc"}, "not valid base64"),
    "not ASCII": ({"image": "bär="}, "not valid base64"),
    "a lone surrogate": (b'{"image": "\\ud800"}', "not valid base64"),
    "empty image": ({"image": ""}, "empty"),
    "base64 of text": ({"image": "aGVsbG8="}, "not a PNG or JPEG"),
    "ragged": ({"pixels": [[1, 2], [3]]}, "unequal length"),
    "wrong shape": ({"pixels": [[1, 2], [3, 4]]}, r"shape \(2, 2, 1\); expected \(12, 16, 1\)"),
    "too many channels": ({"pixels": PIXELS.tolist()}, r"expected \(12, 16, 1\)"),
    "no pixels": ({"pixels": []}, "shape"),
    "a number": ({"pixels": 7}, "shape"),
    "an object": ({"pixels": {"a": 1}}, "must hold numbers"),
    "null": ({"pixels": None}, "must hold numbers"),
    "a null among them": (planted(None), "must hold numbers"),
    "text": (planted("7"), "must hold numbers"),
    "booleans": ({"pixels": [[True] * 16] * 12}, "must hold numbers"),
    "NaN": (json.dumps(planted(float("nan"))).encode(), "must lie between 0 and 255"),
    "infinity": (json.dumps(planted(float("inf"))).encode(), "between 0 and 255"),
    "overflow": (json.dumps(planted(-999)).replace("-999", "1e999").encode(), "between 0 and 255"),
    "negative": (planted(-1), "between 0 and 255"),
    "too bright": (planted(256), "between 0 and 255"),
    "fractions": (planted(0.5), "whole numbers.*not scaled to 0..1"),
    "2**70": (planted(2**70), "must hold numbers|between 0 and 255"),
    "2**63": (planted(2**63), "between 0 and 255"),
    "5,000 digits": (b'{"pixels": [[' + b"9" * 5_000 + b"]]}", "not valid JSON"),
    "deep list": (b"[" * 100_000, "not valid JSON"),
    "deep object": (b'{"pixels":' * 50_000, "not valid JSON"),
    "deep pixels": (b'{"pixels":' + b"[" * 500 + b"]" * 500 + b"}", "pixels"),
    "not UTF-8": (b'{"image": "\xff\xfe"}', "not valid JSON"),
    "a word": (b'"hello"', "not a PNG or JPEG"),
    "UTF-16": (json.dumps({"image": ""}).encode("utf-16"), "not a PNG or JPEG"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json_is_refused_with_a_reason(case: str) -> None:
    body, reason = BAD_JSON[case]
    with pytest.raises(BadInput, match=reason):
        decode(body, spec_of((1, 12, 16), "ab"))
    if isinstance(body, dict):
        with pytest.raises(BadInput, match=reason):
            decode(json.dumps(body).encode(), spec_of((1, 12, 16), "ab"))


def whole_bodies() -> list[bytes]:
    exif = Image.Exif()
    exif[0x112], exif[0x10E], exif[0x11A] = 6, "a camera", 72.5
    palette = Image.fromarray(PIXELS).quantize(16)
    raws = [
        saved(PIXELS), saved(PIXELS[..., 0], exif=exif), saved(palette, transparency=3), saved(SMOOTH, "JPEG"),
        saved(SMOOTH, "JPEG", exif=exif), saved(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", progressive=True),
    ]  # fmt: skip
    documents = [{"pixels": SMALL}, {"image": base64.b64encode(raws[0]).decode()}]
    return [*raws, *(json.dumps(document).encode() for document in documents)]


def mutated(body: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, removed or repeated; mostly near the beginning, where the structure is."""
    raw = bytearray(body)
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(min(len(raw), draw.choice([150, len(raw)])))
        action = draw.randrange(4)
        if action < 2:
            raw[at] = draw.choice([0, 1, 127, 255, draw.randrange(256)])
        elif action == 2:
            del raw[at : at + draw.randrange(1, 20)]
        else:
            raw[at:at] = raw[at : at + 20]
    return mended(bytes(raw)) if raw.startswith(b"\x89PNG") else bytes(raw)


def mended(raw: bytes) -> bytes:
    """A PNG with right checksums, so that what is wrong in it goes past the first test."""
    parts, at = [raw[:8]], 8
    while at + 12 <= len(raw):
        end = at + 8 + int.from_bytes(raw[at : at + 4], "big")
        parts.append(raw[at:end] + struct.pack(">I", zlib.crc32(raw[at + 4 : end])))
        at = end + 4
    return b"".join(parts)


def test_random_damage_gives_bad_input_or_a_picture() -> None:
    draw, bodies, spec = random.Random(5), whole_bodies(), spec_of((1, 12, 16), "ab")
    refused = 0
    for body in bodies:
        for _ in range(400):
            raw = mutated(body, draw)
            try:
                found = decode(raw, spec)
            except BadInput:
                refused += 1
            else:
                assert found.shape == (1, 12, 16)
                assert found.dtype == np.uint8
    assert 0.2 < refused / (400 * len(bodies)) < 0.99, "some damage must be seen, and some must pass"


@pytest.mark.parametrize("body", [{"é" * 2_000_000: 1}, {str(at): at for at in range(20_000)}])
def test_a_long_body_gets_a_short_reason(body: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="expected a JSON object with one key") as told:
        decode_json(json.dumps(body, ensure_ascii=False).encode(), GREY)
    assert len(json.dumps(str(told.value))) < 10_000, "TorchServe ends a worker whose answer is too large"
