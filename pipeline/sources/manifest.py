"""Images that a table lists: `manifest.csv` or `manifest.parquet` beside them, with path, label, split and group."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.core.dataset import columns_of
from pipeline.core.params import UserError
from pipeline.sources.base import Chunk, Data
from pipeline.sources.images import ImageSource, RawImage
from pipeline.sources.learnt import SPLITS, check_classes
from pipeline.sources.tablefiles import SHOWN, open_file
from serving.inputs.spec import Column, DataSpec

READ = 1024  # rows read at a time
NAMES = ("manifest.csv", "manifest.parquet")
GROUP = Column(name="group", role="group", dtype="<i8")
SPLIT = Column(name="split", role="split", dtype="|u1")


def manifest_in(folder: Path) -> Path | None:
    """The manifest of a folder of images, where there is one."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


class ManifestSource(ImageSource):
    """Images below the manifest's folder; `data.target` names the label's column, `label` by default.

    `data.split` and `data.group` may name a column each. A sample's origin is its path, which may stand in the
    manifest once.
    """

    def __init__(self, data: Data, manifest: Path) -> None:
        super().__init__(data)
        self._root, self._manifest = manifest.parent, manifest
        self._file = open_file(manifest, str(manifest))
        if len(data.target) > 1:
            raise UserError(f"data.target names {len(data.target)} columns; images have one label each")
        self._label = data.target[0] if data.target else "label"
        wanted = {"path": "path", "label": self._label, "split": data.split, "group": data.group}
        self._columns = {role: name for role, name in wanted.items() if name}
        self._check_header()
        labels: set[str] = set()
        self._groups: dict[str, int] = {}
        self._rows = 0
        for row in self._read():
            labels.add(row["label"])
            self._groups.setdefault(row.get("group", ""), len(self._groups))
            self._rows += 1
        if not self._rows:
            raise UserError(f"{manifest} lists no images")
        self.classes = tuple(sorted(labels))
        check_classes(self.classes, f"{manifest}: the column '{self._label}'")
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    @property
    def spec(self) -> DataSpec:
        """As of any images, with columns for the given split and the group."""
        plain = super().spec
        more = [column for column in (SPLIT, GROUP) if column.name in self._columns]
        return plain.model_copy(update={"columns": columns_of(plain.input, 0, *more)})

    def _check_header(self) -> None:
        names = self._file.names
        for role, name in self._columns.items():
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(names)}"
                raise UserError(f"{self._manifest}: there is no column '{name}' for the {role}; {hint}")

    def _read(self) -> Iterator[dict[str, str]]:
        """The rows as text by role, checked."""
        bad, seen, wanted = list[str](), set[str](), tuple(dict.fromkeys(self._columns.values()))
        for batch in self._file.batches(READ, bad, wanted):
            cells = zip(*(batch.columns[name] for name in self._columns.values()), strict=True)
            for origin, values in zip(batch.origins, cells, strict=True):
                text = ["" if cell is None else str(cell).strip() for cell in values]
                yield self._checked(dict(zip(self._columns, text, strict=True)), origin, seen)
        if bad:
            raise UserError("\n".join(bad[:SHOWN]))

    def _checked(self, row: dict[str, str], place: str, seen: set[str]) -> dict[str, str]:
        for role in ("path", "label"):
            if not row[role]:
                raise UserError(f"{place}: the {role} is empty")
        inside = (self._root / row["path"]).resolve().is_relative_to(self._root.resolve())
        if not inside:
            raise UserError(
                f"{place}: '{row['path']}' leads out of {self._root}; keep images below the manifest"
            )
        if row["path"] in seen:
            raise UserError(f"{place}: '{row['path']}' is listed a second time")
        seen.add(row["path"])
        if "split" in row and row["split"].lower() not in SPLITS:
            raise UserError(f"{place}: the split is '{row['split']}'; expected one of {', '.join(SPLITS)}")
        return row

    def samples(self) -> Iterator[RawImage]:
        """The listed images, in the manifest's order."""
        for row in self._read():
            yield self._sample(row["path"], self._numbers[row["label"]])

    def _sample(self, origin: str, label: int) -> RawImage:
        try:
            return RawImage(origin, (self._root / origin).read_bytes(), label)
        except OSError as error:  # reported together with the files that cannot be decoded
            return RawImage(origin, b"", label, error.strerror or str(error))

    def chunks(self, size: int, bad: list[str]) -> Iterator[Chunk]:
        """Decoded images with their split and group."""
        rows = self._read()
        for chunk in super().chunks(size, bad):
            found = {row["path"]: row for row in islice(rows, size)}
            used = [found[origin] for origin in chunk.origins]
            more: dict[str, np.ndarray] = {}
            if "split" in self._columns:
                more["split"] = np.array([SPLITS[row["split"].lower()] for row in used], np.uint8)
            if "group" in self._columns:
                more["group"] = np.array([self._groups[row["group"]] for row in used], np.int64)
            yield Chunk({**chunk.columns, **more}, chunk.origins, chunk.digests)

    def __len__(self) -> int:
        return self._rows

    def read(self, origins: Collection[str]) -> dict[str, bytes]:
        """The files' own bytes."""
        return {origin: (self._root / origin).read_bytes() for origin in origins}

    def left_out(self) -> list[str]:
        """Images beside the manifest that it does not list."""
        listed = {row["path"] for row in self._read()}
        found = (path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file())
        return sorted(name for name in found if name not in listed and name not in (*NAMES, "README.md"))
