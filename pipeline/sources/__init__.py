"""Where samples come from: `SOURCES` maps `data.source` to a reader; a new source is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.sources.base import Chunk, Data, Request, Source
from pipeline.sources.images import ImageFolderSource, MnistSource
from pipeline.sources.table import TableSource
from pipeline.sources.table_examples import diamonds, loanapp

__all__ = ["SOURCES", "Chunk", "Data", "Request", "Source", "open_source"]
SOURCES: dict[str, Callable[[Data], Source]] = {
    "mnist": MnistSource, "images": ImageFolderSource,
    "table": TableSource, "loanapp": loanapp, "diamonds": diamonds,
}  # fmt: skip


def open_source(data: Data) -> Source:
    """The reader for the `data` section."""
    return SOURCES[data.source](data)
