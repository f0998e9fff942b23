"""Where samples come from: `SOURCES` maps `data.source` to a reader; a new source is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.sources import forecast, series
from pipeline.sources.anomaly import AnomalySource
from pipeline.sources.base import Chunk, Data, Request, Source
from pipeline.sources.images import ImageFolderSource, MnistSource
from pipeline.sources.manifest import ManifestSource, manifest_in
from pipeline.sources.photos import PhotosSource
from pipeline.sources.table import TableSource
from pipeline.sources.table_examples import diamonds, loanapp
from pipeline.sources.text import ReviewsSource, TextSource

__all__ = ["SOURCES", "Chunk", "Data", "Request", "Source", "open_source"]


def images(data: Data) -> Source:
    """Images that a manifest lists, where the folder holds one, else one sub-folder a class."""
    manifest = manifest_in(Path(data.path))
    return ManifestSource(data, manifest) if manifest else ImageFolderSource(data)


SOURCES: dict[str, Callable[[Data], Source]] = {
    "mnist": MnistSource, "photos": PhotosSource, "images": images,
    "table": TableSource, "loanapp": loanapp, "diamonds": diamonds,
    "series": series.own, "vowels": series.vowels, "plaid": series.plaid,
    "forecast": forecast.own, "ecg": forecast.ecg,
    "text": TextSource, "reviews": ReviewsSource,
}  # fmt: skip


def open_source(data: Data) -> Source:
    """The reader for the `data` section."""
    source = SOURCES[data.source](data)
    return AnomalySource(source, data) if data.task == "anomaly" else source
