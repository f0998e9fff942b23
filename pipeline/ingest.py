"""Stage `ingest`: what did we get? Raw files become a data set folder with a checksum manifest."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field
from tqdm import tqdm

from pipeline.core.dataset import DatasetWriter, identities
from pipeline.core.params import Section, UserError, section
from pipeline.core.stage import DATA, main, replacing
from pipeline.engine.ray_data import in_order
from pipeline.fitting.compute import Compute
from pipeline.sources import Chunk, Data, Source, open_source
from pipeline.sources.images import ImageFolderSource, read_files
from serving.inputs.spec import DataSpec

OUTPUT = DATA / "ingest"
SHOWN = 20  # samples that cannot be used, listed with their place; more are counted


class Ingest(Section):
    """The `ingest` section."""

    chunk: int = Field(512, ge=1, le=65_536, description="Samples decoded at a time.")


def ingest(
    source: Source,
    settings: Ingest,
    folder: Path,
    compute: Compute = Compute(),  # noqa: B008
) -> int:
    """Write the data set folder and `manifest.csv` (row, origin, target, SHA-256 of the raw bytes); return N.

    Raises:
        UserError: nothing to read, or samples that cannot be used, all of them at once.
    """
    spec, rows = source.spec, 0
    bad: list[str] = []
    with (
        DatasetWriter(folder, spec) as writer,
        (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as manifest,
        tqdm(total=len(source), desc="ingest", unit=" samples", leave=False) as bar,
    ):
        table = csv.writer(manifest, lineterminator="\n")
        table.writerow(["row", "origin", "target", "sha256"])
        for chunk in chunks_of(source, settings.chunk, bad, compute):
            ids = identities(chunk.columns[spec.input.name])
            writer.append({**chunk.columns, "id": ids})
            numbers = range(rows, rows + len(chunk))
            table.writerows(zip(numbers, chunk.origins, names_of(spec, chunk), chunk.digests, strict=True))
            rows += len(chunk)
            bar.update(len(chunk))
    if bad:
        more = f"\n  ... and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        listed = "\n  ".join(bad[:SHOWN])
        raise UserError(
            f"{len(bad)} of {rows + len(bad)} samples cannot be used:\n  {listed}{more}\nmend or remove them"
        )
    if rows == 0:
        raise UserError(f"no samples found by the source '{spec.source}'")
    return rows


def chunks_of(source: Source, size: int, bad: list[str], compute: Compute) -> Iterator[Chunk]:
    """The source's chunks; image files are read and decoded by the cluster, where there is one."""
    if not isinstance(source, ImageFolderSource):
        yield from source.chunks(size, bad)
        return
    for chunk, wrong in in_order(read_files, source.parts(size), compute):
        bad += wrong
        yield chunk


def names_of(spec: DataSpec, chunk: Chunk) -> list[object]:
    """What each sample's target is called: its class, or its values."""
    targets = np.asarray(chunk.columns[spec.target.name])
    if spec.classes:
        return [spec.classes[label] for label in targets]
    return [" ".join(map(str, row)) for row in targets.tolist()]


def run() -> None:
    """Run the stage."""
    data = section("data", Data)
    settings = section("ingest", Ingest)
    source = open_source(data)
    with replacing(OUTPUT) as folder:
        rows = ingest(source, settings, folder, section("compute", Compute))
    if stray := source.left_out():
        shown = ", ".join(stray[:5]) + (", ..." if len(stray) > 5 else "")
        print(
            f"ingest: {len(stray)} entries are of no kind that '{data.source}' reads and were left out: {shown}"
        )
    spec = source.spec
    learnt = f"{len(spec.classes)} classes" if spec.classes else f"targets {', '.join(spec.targets)}"
    print(f"ingest: {rows} samples, {learnt}, from '{data.source}' in {OUTPUT}")


if __name__ == "__main__":
    main(run, "ingest")
