"""The decoder: every form of picture gives the canonical array, every broken one `BadInput` and no other."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.inputs.body import BadInput
from serving.inputs.image import decode, decode_image, decode_json, encode_png
from serving.inputs.spec import ImageInput
from tests.conftest import spec_of

GREY = ImageInput(height=12, width=16, channels=1)
COLOUR = ImageInput(height=12, width=16, channels=3)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
SMOOTH = np.indices((12, 16)).sum(0).astype(np.uint8)[..., None] * np.array(
    [3, 5, 7], np.uint8
)  # survives JPEG


def saved(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A valid PNG up to its first pixel, of which it has none: whoever decodes it finds it truncated."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"")
    chunks = (struct.pack(">I", len(it) - 4) + it + struct.pack(">I", zlib.crc32(it)) for it in (body, idat))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# --- what a picture becomes


def test_rgb_keeps_every_pixel() -> None:
    found = decode_image(saved(PIXELS), COLOUR)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, PIXELS.transpose(2, 0, 1))


def test_grey_keeps_every_pixel_and_colour_becomes_its_luma() -> None:
    np.testing.assert_array_equal(decode_image(saved(PIXELS[..., 0]), GREY)[0], PIXELS[..., 0])
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(decode_image(saved(PIXELS), GREY)[0] - luma).max() <= 1
    grey_in_colour = decode_image(saved(PIXELS[..., 0]), COLOUR)
    assert (grey_in_colour == PIXELS[..., 0]).all()


@pytest.mark.parametrize("background", [0, 255, 100])
def test_transparency_lies_on_the_background(background: int) -> None:
    alpha = np.linspace(0, 255, 12 * 16).reshape(12, 16).astype(np.uint8)
    image = COLOUR.model_copy(update={"background": background})
    found = decode_image(saved(np.dstack([PIXELS, alpha])), image)
    share = alpha[..., None] / 255
    expected = PIXELS * share + background * (1 - share)
    assert np.abs(found.transpose(1, 2, 0) - expected).max() <= 1
    grey = GREY.model_copy(update={"background": background})
    found = decode_image(
        saved(Image.merge("LA", [Image.fromarray(PIXELS[..., 0]), Image.fromarray(alpha)])), grey
    )
    assert np.abs(found[0] - expected[..., 0]).max() <= 1


def test_palette_with_and_without_transparency() -> None:
    numbers = np.arange(12 * 16).reshape(12, 16) % 4
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    picture = Image.fromarray(numbers.astype(np.uint8), "L")
    picture.putpalette(colours.ravel().tolist())
    assert picture.mode == "P"
    np.testing.assert_array_equal(decode_image(saved(picture), COLOUR).transpose(1, 2, 0), colours[numbers])
    image = COLOUR.model_copy(update={"background": 77})
    colours[1] = 77
    found = decode_image(saved(picture, transparency=1), image)
    np.testing.assert_array_equal(found.transpose(1, 2, 0), colours[numbers])


def test_a_transparent_colour_key_lies_on_the_background() -> None:
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[:6] = (9, 8, 7)
    found = decode_image(saved(pixels, transparency=(9, 8, 7)), COLOUR)
    assert (found[:, :6] == 255).all()
    assert (found[:, 6:] == 0).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = np.linspace(0, 65_535, 12 * 16).reshape(12, 16).astype(np.uint16)
    found = decode_image(saved(deep), GREY)
    np.testing.assert_array_equal(found[0], deep >> 8)
    np.testing.assert_array_equal(decode_image(saved(deep), COLOUR), np.stack([deep >> 8] * 3))


def test_one_bit_is_black_and_white() -> None:
    black = np.indices((12, 16)).sum(0) % 2 == 0
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(black)), GREY)[0], black * 255)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_jpeg_is_near_the_picture(mode: str) -> None:
    """libjpeg's own loss is a few levels; an inverted CMYK would be far off."""
    picture = Image.fromarray(SMOOTH).convert(mode)
    found = decode_image(saved(picture, "JPEG", quality=95, subsampling=0), COLOUR).astype(int)
    expected = np.asarray(Image.fromarray(SMOOTH).convert("L" if mode == "L" else "RGB").convert("RGB"))
    assert np.abs(found - expected.transpose(2, 0, 1)).max() <= 12


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # how an upright picture is stored, from EXIF 2.32
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_every_exif_orientation_is_undone(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = np.ascontiguousarray(TURNS[orientation](PIXELS))
    found = decode_image(saved(stored, exif=exif), COLOUR)
    np.testing.assert_array_equal(found, PIXELS.transpose(2, 0, 1))
    transparent = np.dstack([stored, np.zeros(stored.shape[:2], np.uint8)])
    assert (decode_image(saved(transparent, exif=exif), COLOUR) == 255).all()
    stored = np.ascontiguousarray(TURNS[orientation](SMOOTH))
    found = decode_image(saved(stored, "JPEG", quality=95, subsampling=0, exif=exif), COLOUR)
    assert np.abs(found.astype(int) - SMOOTH.transpose(2, 0, 1)).max() <= 12


def test_an_odd_exif_tag_spoils_no_picture() -> None:
    """A rotated JPEG whose resolution tag has the type of text: Pillow itself cannot write that back."""
    exif = Image.Exif()
    exif[0x112], exif[0x11A] = 6, 72.5
    raw = saved(SMOOTH, "JPEG", quality=95, subsampling=0, exif=exif)
    entry = (
        raw.index(struct.pack(">HH", 0x11A, 5))
        if b"MM\0*" in raw
        else raw.index(struct.pack("<HH", 0x11A, 5))
    )
    order = ">H" if b"MM\0*" in raw else "<H"
    broken = raw[: entry + 2] + struct.pack(order, 2) + raw[entry + 4 :]
    assert decode_image(broken, COLOUR).shape == (3, 12, 16)
    np.testing.assert_array_equal(decode_image(broken, COLOUR), decode_image(raw, COLOUR))


@pytest.mark.parametrize("size", [(4, 4), (12, 16), (40, 7), (7, 40), (300, 200)])
def test_any_size_is_brought_to_the_canonical_one(size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), (10, 120, 240), np.uint8)
    found = decode_image(saved(flat), COLOUR)
    assert found.shape == (3, 12, 16)
    assert (found == np.array([10, 120, 240])[:, None, None]).all()


def test_shrinking_averages_what_it_drops() -> None:
    """Without antialiasing, a fine chequer board shrinks to black or white, not to grey."""
    board = (np.indices((120, 160)).sum(0) % 2 * 255).astype(np.uint8)
    inner = decode_image(saved(board), GREY)[0, 1:-1, 1:-1]
    assert np.abs(inner.astype(int) - 127).max() <= 8


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(channels: int) -> None:
    array = np.ascontiguousarray(PIXELS.transpose(2, 0, 1)[:channels])
    image = COLOUR.model_copy(update={"channels": channels})
    np.testing.assert_array_equal(decode_image(encode_png(array), image), array)


def test_json_forms_equal_the_picture() -> None:
    raw = saved(PIXELS)
    expected = decode_image(raw, COLOUR)
    body = {"image": base64.b64encode(raw).decode()}
    pixels = {"pixels": PIXELS.tolist()}
    for form in (body, pixels):
        for content in (form, json.dumps(form).encode(), b" \n" + json.dumps(form, indent=1).encode()):
            np.testing.assert_array_equal(decode(content, spec_of((3, 12, 16), "ab")), expected)
    grey = {"pixels": PIXELS[..., 0].tolist()}
    np.testing.assert_array_equal(decode_json(grey, GREY)[0], PIXELS[..., 0])
    np.testing.assert_array_equal(decode_json({"pixels": PIXELS[..., :1].tolist()}, GREY)[0], PIXELS[..., 0])
    whole = {"pixels": PIXELS[..., 0].astype(float).tolist()}
    np.testing.assert_array_equal(decode_json(whole, GREY)[0], PIXELS[..., 0])


# --- what is refused


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


@pytest.mark.parametrize("size", [(12_000, 12_000), (12_000, 8), (8, 12_000), (8_193, 20)])
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
