"""From PNG, JPEG or JSON bytes to the canonical image."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from serving.inputs.body import BadInput, is_json, only_key, parse_json
from serving.inputs.spec import DataSpec, ImageInput

FORMATS = ("PNG", "JPEG")
MOST_PIXELS = (
    50_000_000  # a few hundred KB can hold as many: they would take seconds, and gigabytes of memory
)
SCAN, MOST_SCANS = (
    b"\xff\xda",
    100,
)  # a progressive JPEG has about 10; each is a pass over all pixels, in 33 bytes
STRIP = 256  # rows of a picture that are laid on its background at once
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, OverflowError)

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what undoes each EXIF orientation


def decode_image(raw: bytes, image: ImageInput) -> np.ndarray:
    """Decode PNG or JPEG bytes to (C, H, W) uint8.

    Applies the EXIF orientation, lays transparency on `image.background`, converts palettes, 16-bit
    grey and colour, and resizes with an antialiased bilinear filter. Sizes are checked before any pixel
    is decoded, so a decompression bomb costs nothing.

    Raises:
        BadInput: not a PNG or JPEG, truncated, or a side outside `min_side`..`max_side`.
    """
    if not raw:
        raise BadInput("the image is empty (0 bytes); expected PNG or JPEG bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's size warning: our own limit is checked below
            picture = Image.open(io.BytesIO(raw), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadInput(f"not a PNG or JPEG image (it begins with {raw[:8]!r})") from None
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise BadInput(f"the image header cannot be read: {error}") from None
    if (pixels := picture.width * picture.height) > MOST_PIXELS:
        raise BadInput(f"the image has {pixels} pixels; expected {MOST_PIXELS} at most")
    scans = raw.count(SCAN) if picture.format == "JPEG" else 1
    if scans > MOST_SCANS or scans * pixels > 12 * MOST_PIXELS:
        raise BadInput(f"the JPEG has {scans} scans of {pixels} pixels, which would take too long to decode")
    short, long = sorted(picture.size)
    if short < image.min_side or long > image.max_side:
        raise BadInput(
            f"the image is {picture.width}x{picture.height} pixels; expected every side "
            f"between {image.min_side} and {image.max_side}"
        )
    try:
        return _to_array(picture, image)
    except BROKEN as error:
        raise BadInput(f"the image is truncated or corrupt: {error}") from None


def _to_array(picture: Image.Image, image: ImageInput) -> np.ndarray:
    picture.load()
    # A picture without metadata, as most are, has no orientation; to look for one takes as long as to decode it.
    orientation = picture.getexif().get(ExifTags.Base.Orientation) if picture.info else None
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    if turn is not None:  # not ImageOps.exif_transpose: it writes the EXIF anew and fails on odd tags
        picture = picture.transpose(turn)
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips it
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    mode = "L" if image.channels == 1 else "RGB"
    if picture.has_transparency_data:
        picture = _opaque(picture, image, mode)
    if picture.mode != mode:  # converting to the same copies
        picture = picture.convert(mode)
    if picture.size != (image.width, image.height):
        picture = picture.resize((image.width, image.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if image.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _opaque(picture: Image.Image, image: ImageInput, mode: str) -> Image.Image:
    """A picture laid on its background, strip by strip, as the whole would take four times its memory."""
    whole = Image.new(mode, picture.size)
    for top in range(0, picture.height, STRIP):
        box = (0, top, picture.width, min(top + STRIP, picture.height))
        strip = picture.crop(box).convert("RGBA")
        below = Image.new("RGBA", strip.size, (image.background,) * 3 + (255,))
        whole.paste(Image.alpha_composite(below, strip).convert(mode), box)
    return whole


def encode_png(array: np.ndarray) -> bytes:
    """Encode (C, H, W) uint8 as lossless PNG; `decode_image` gives the same array back."""
    pixels = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def decode_json(body: bytes | dict[str, Any], image: ImageInput) -> np.ndarray:
    """Decode `{"image": "<base64 of PNG or JPEG>"}` or `{"pixels": [[0..255]]}` to (C, H, W) uint8.

    `pixels` is (H, W) for greyscale or (H, W, C); it must have the canonical size.
    """
    key, value = only_key(parse_json(body), "image", "pixels")
    return decode_image(_from_base64(value), image) if key == "image" else _from_pixels(value, image)


def _from_base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise BadInput(f"'image' must be a base64 string; found {type(text).__name__}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"'image' is not valid base64: {error}") from None


def _from_pixels(pixels: object, image: ImageInput) -> np.ndarray:
    try:
        values = np.asarray(pixels)
    except ValueError:
        raise BadInput("'pixels' has rows of unequal length") from None
    if values.dtype.kind not in "iuf":
        raise BadInput("'pixels' must hold numbers between 0 and 255")
    if values.ndim == 2:
        values = values[..., None]
    expected = (image.height, image.width, image.channels)
    if values.shape != expected:
        raise BadInput(f"'pixels' has shape {values.shape}; expected {expected} (height, width, channels)")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise BadInput("'pixels' must lie between 0 and 255")
    if (values != np.rint(values)).any():
        raise BadInput("'pixels' must be whole numbers between 0 and 255 (not scaled to 0..1)")
    return np.ascontiguousarray(values.astype(np.uint8).transpose(2, 0, 1))


def decode(body: bytes | dict[str, Any], spec: DataSpec) -> np.ndarray:
    """One request body, PNG or JPEG bytes or JSON, as (C, H, W) uint8.

    Raises:
        BadInput: the body is not of a kind that this model takes.
    """
    assert spec.image is not None
    if is_json(body):
        return decode_json(body, spec.image)
    assert not isinstance(body, dict)
    return decode_image(body, spec.image)
