"""The decoder of images: every form of picture gives the canonical array."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from serving.inputs.image import decode, decode_image, decode_json, encode_png
from tests.conftest import spec_of
from tests.drawn import COLOUR, GREY, PIXELS, SMOOTH, saved


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
