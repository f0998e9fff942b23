"""Images and bodies that mean harm, made in milliseconds: bombs, polyglots, mutations of good requests."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

DEEP = 3000


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    size: tuple[int, int], bits: int = 8, colour: int = 0, more: bytes = b"", rows: int | None = None
) -> bytes:
    """A black PNG of any size in few bytes, with other chunks in it; fewer rows than it says where they are given."""
    width, height = size
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    line = b"\0" * (1 + (width * samples * bits + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(line) for _ in range(height if rows is None else rows)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(picture: Image.Image, kind: str, **how: Any) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


def _zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("a.txt", "x" * 99)
    return buffer.getvalue()


GREY = Image.fromarray(np.random.default_rng(3).integers(0, 256, (28, 28)).astype(np.uint8))
COLOUR = Image.merge("RGB", [GREY, GREY.rotate(90), GREY.rotate(180)])
TURNED = Image.Exif()
TURNED[0x0112] = 6
PLAIN = saved(GREY, "PNG")
JPEG = saved(COLOUR, "JPEG")
SCANS = saved(COLOUR, "JPEG", progressive=True)
LAST = SCANS[SCANS.rfind(b"\xff\xda") : -2]
INFLATED = zlib.compress(b"x" * 50_000_000, 9)

REFUSED: dict[str, bytes] = {  # each gets a 400
    "bomb of 50,000 x 50,000": png((50_000, 50_000), colour=6, rows=8),
    "bomb of 8,000 x 8,000 in 1 bit": png((8_000, 8_000), bits=1),
    "bomb without rows": png((8_192, 6_000), rows=0),
    "zTXt bomb": png((28, 28), more=chunk(b"zTXt", b"a\0\0" + INFLATED)),
    "iTXt bomb": png((28, 28), more=chunk(b"iTXt", b"a\0\1\0\0\0" + INFLATED)),
    "iCCP bomb": png((28, 28), more=chunk(b"iCCP", b"a\0\0" + INFLATED)),
    "JPEG of 1,000 scans": SCANS[:-2] + LAST * 1_000 + b"\xff\xd9",
    "truncated PNG": PLAIN[:300],
    "truncated JPEG": JPEG[: len(JPEG) // 2],
    "PNG's head alone": PLAIN[:8],
    "JPEG's head alone": b"\xff\xd8\xff",
    "PNG of no width": png((0, 28)),
    **{
        kind: saved(COLOUR, kind)
        for kind in ("GIF", "TIFF", "WEBP", "BMP", "ICO", "PPM", "TGA", "PDF", "SGI")
    },
    "animated GIF": saved(COLOUR, "GIF", save_all=True, append_images=[COLOUR] * 3),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "HTML": b"<html><script>alert(1)</script></html>",
    "ZIP": _zipped(),
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}
ANSWERED: dict[str, bytes] = {  # each gets the answer of what it shows
    "PNG and ZIP": PLAIN + _zipped(),
    "JPEG and HTML": JPEG + b"<script>alert(1)</script>",
    "animated PNG": saved(GREY, "PNG", save_all=True, append_images=[GREY.rotate(9)] * 50, duration=1),
    "CMYK": saved(COLOUR.convert("CMYK"), "JPEG"),
    "16 bits": saved(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "PNG"),
    "palette": saved(COLOUR.convert("P"), "PNG"),
    "transparent palette": saved(COLOUR.convert("P"), "PNG", transparency=3),
    "1 bit": saved(GREY.convert("1"), "PNG"),
    "grey and alpha": saved(GREY.convert("LA"), "PNG"),
    "turned by EXIF": saved(COLOUR, "JPEG", exif=TURNED),
    "progressive": SCANS,
    "40 megapixels in 1 bit": png((8_000, 5_000), bits=1),
}


def mutated(body: bytes, seed: int, count: int) -> Iterator[bytes]:
    """A good body with bytes flipped, cut off, doubled, put in or swapped."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        raw = bytearray(body)
        at = int(draw.integers(len(raw)))
        kind = number % 5
        if kind == 0:
            for place in draw.integers(len(raw), size=int(draw.integers(1, 9))):
                raw[place] ^= 1 << int(draw.integers(8))
        elif kind == 1:
            del raw[at:]
        elif kind == 2:
            raw[at:at] = raw[at : at + 40]
        elif kind == 3:
            raw[at:at] = bytes(draw.integers(256, size=5).astype(np.uint8))
        else:
            raw[at : at + 1] = draw.choice(
                [b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"9" * 400, b'"', b"["]
            )
        yield bytes(raw)


ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**63, 10**400, 1e308, -1e39, 0.5, "", "x", "1e999", "NaN", "\ud800", "\x00", "9" * 5000,
    [], [[]], [None], ["x"], {}, {"a": 1}, [1] * 2000, [[[1]]],
)  # fmt: skip
LITERALS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "01",
    "+1",
    "0x1",
    "1" * 5000,
    "'x'",
    "undefined",
)


def misshapen(content: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """A good JSON object with one value of another kind, by the key of that value."""
    for key in content:
        for odd in ODD:
            yield key, json.dumps({**content, key: odd}).encode()
        for literal in LITERALS:
            yield key, json.dumps({**content, key: "@"}).replace('"@"', literal).encode()


def unshapely(content: dict[str, Any]) -> Iterator[bytes]:
    """A good JSON object in forms that parsers differ on, and in none."""
    text = json.dumps(content)
    key = json.dumps(next(iter(content)))
    yield from (text[:-1].encode(), (text + text).encode(), (text + ",").encode(), f"[{text}]".encode())
    yield from (f"{text[:-1]}, {key}: null}}".encode(), f"{text[:-1]}, {key}: {{}}}}".encode())  # a key twice
    yield from (text.encode(code) for code in ("utf-16", "utf-32", "utf-8-sig"))
    yield from (
        b'{"a":' * DEEP,
        b"[" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        f"{{{key}:{'[' * DEEP}".encode(),
    )
    yield from (
        f"{{{key}: {'[' * DEEP}{']' * DEEP}}}".encode(),
        b'{"\xff": 1}',
        b'{"\\ud800": 1}',
        b"{",
        b"{}",
        b"[]",
    )
    yield json.dumps({f"k{at}": at for at in range(5_000)}).encode()
    yield json.dumps({"x" * 50_000: 1}).encode()
    for wrapped in (content, [content], None, 3, "x", [[]], {}):
        yield json.dumps({"instances": wrapped}).encode()
    yield json.dumps({"instances": [content, None, content]}).encode()
    yield json.dumps({"instances": [{}] * 3_000}).encode()
