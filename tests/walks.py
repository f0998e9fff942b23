"""What tests of series share: small `.ts` files and long tables, and what comes of them."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.dataset import Dataset
from pipeline.ingest import Ingest, ingest
from pipeline.sources import Data, Source

HEAD = """# made by hand
@problemName Walks
@timeStamps false
@missing true
@univariate false
@dimensions 2
@equalLength false
@classLabel true walk run
@data
"""
TS = HEAD + "1,2,?:4,5,6:walk\n1.5,2:-3e-2,?:run\n\n7,8,9,?:1,1,1,?:walk\n"


def data(path: Path, **more: object) -> Data:
    return Data.model_validate({"source": "series", "path": str(path), **more})


def taken(source: Source, folder: Path, size: int = 512) -> Dataset:
    ingest(source, Ingest(chunk=size), folder)
    return Dataset(folder)


def wrongs(source: Source) -> list[str]:
    bad: list[str] = []
    list(source.chunks(100, bad))
    return bad


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def origins(folder: Path) -> list[str]:
    return [line.split(",")[1] for line in (folder / "manifest.csv").read_text().splitlines()[1:]]


def long_table(steps: int = 3) -> str:
    """Two series, their steps mixed and out of order; the column of targets is the last."""
    rows = [f"b,{at},{at * 10},{'NA' if at == 1 else at / 2},slow" for at in range(steps)]
    rows += [f"a,{at / 4},{-at},{at}e-1,fast" for at in range(steps)]
    return "id,t,x,y,kind\n" + "\n".join([*rows[1::2], *rows[::2]]) + "\n"
