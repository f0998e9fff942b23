"""Stage `ingest`: what did we get? Raw files become a data set folder with a checksum manifest."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import Field
from tqdm import tqdm

from pipeline.core.dataset import DatasetWriter, image_columns
from pipeline.core.params import Section, UserError, section
from pipeline.core.stage import DATA, main, replacing
from pipeline.sources import Data, RawSample, Source, open_source
from serving.inputs.decode import BadInput, decode_image
from serving.inputs.spec import DataSpec

OUTPUT = DATA / "ingest"
SHOWN = 20  # unreadable files listed by name; more are counted


class Ingest(Section):
    """The `ingest` section."""

    chunk: int = Field(512, ge=1, le=65_536, description="Samples decoded at a time.")


def decode_chunk(samples: list[RawSample], data: Data, bad: list[str]) -> dict[str, np.ndarray]:
    """Decode raw samples to columns; what cannot be decoded is appended to `bad` with its origin."""
    arrays, labels = [], []
    for sample in samples:
        if sample.unreadable:
            bad.append(f"{sample.origin}: cannot be read: {sample.unreadable}")
            continue
        try:
            arrays.append(decode_image(sample.raw, data.image))
            labels.append(sample.label)
        except BadInput as error:
            bad.append(f"{sample.origin}: {error}")
    shape = (0, data.image.channels, data.image.height, data.image.width)
    images = np.stack(arrays) if arrays else np.zeros(shape, np.uint8)
    ids = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images], dtype="S64")
    return {"image": images, "label": np.array(labels, np.int64), "id": ids}


def chunked(source: Source, size: int) -> Iterator[list[RawSample]]:
    """Yield the source's samples in lists of `size`."""
    samples = iter(source)
    while chunk := list(islice(samples, size)):
        yield chunk


def ingest(source: Source, data: Data, settings: Ingest, folder: Path) -> int:
    """Write the data set folder and `manifest.csv` (row, origin, class, SHA-256 of the raw bytes); return N.

    Raises:
        UserError: nothing to read, or files that cannot be read, all of them at once.
    """
    shape = (data.image.channels, data.image.height, data.image.width)
    spec = DataSpec(
        modality="image", task="classification", source=data.source,
        columns=image_columns(shape), classes=source.classes, image=data.image,
    )  # fmt: skip
    bad: list[str] = []
    rows = 0
    with (
        DatasetWriter(folder, spec) as writer,
        (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as manifest,
        tqdm(total=len(source), desc="ingest", unit=" samples", leave=False) as bar,
    ):
        table = csv.writer(manifest, lineterminator="\n")
        table.writerow(["row", "origin", "class", "sha256"])
        for samples in chunked(source, settings.chunk):
            writer.append(decode_chunk(samples, data, bad))
            for sample in samples:
                digest = hashlib.sha256(sample.raw).hexdigest()
                table.writerow([rows, sample.origin, source.classes[sample.label], digest])
                rows += 1
            bar.update(len(samples))
    if bad:
        more = f"\n  ... and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        listed = "\n  ".join(bad[:SHOWN])
        raise UserError(f"{len(bad)} of {rows} files cannot be used:\n  {listed}{more}\nmend or remove them")
    if rows == 0:
        raise UserError(f"no samples found in {data.path}; expected <class>/*.png, *.jpg or *.jpeg")
    return rows


def run() -> None:
    """Run the stage."""
    data = section("data", Data)
    settings = section("ingest", Ingest)
    source = open_source(data)
    with replacing(OUTPUT) as folder:
        rows = ingest(source, data, settings, folder)
    if stray := source.left_out():
        shown = ", ".join(stray[:5]) + (", ..." if len(stray) > 5 else "")
        print(
            f"ingest: {len(stray)} entries are no <class>/*.png, *.jpg or *.jpeg and were left out: {shown}"
        )
    print(f"ingest: {rows} samples of {len(source.classes)} classes from '{data.source}' in {OUTPUT}")


if __name__ == "__main__":
    main(run, "ingest")
