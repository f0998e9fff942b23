"""Where samples come from: `SOURCES` maps `data.source` to a reader; a new source is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.core.params import UserError
from pipeline.sources import forecast, series
from pipeline.sources.anomaly import AnomalySource
from pipeline.sources.base import Chunk, Data, Request, Source
from pipeline.sources.generation import GenerationSource
from pipeline.sources.images import ImageFolderSource, MnistSource
from pipeline.sources.manifest import ManifestSource, manifest_in
from pipeline.sources.photos import PhotosSource
from pipeline.sources.table import TableSource
from pipeline.sources.table_examples import diamonds, loanapp
from pipeline.sources.text import ReviewsSource, TextSource

__all__ = ["SOURCES", "Chunk", "Data", "Request", "Source", "open_source"]


def images(data: Data) -> Source:
    """Images that a manifest lists, where the folder holds one, else one sub-folder a class."""
    if data.task == "regression":
        raise UserError("data.task: images are told into classes, or what is normal; found 'regression'")
    if manifest := manifest_in(Path(data.path)):
        return ManifestSource(data, manifest)
    if unused := [key for key in ("target", "group", "split") if getattr(data, key)]:
        raise UserError(
            f"data.{unused[0]} names a column, and there is no manifest.csv in {data.path}; add one, or leave it empty"
        )
    return ImageFolderSource(data)


SOURCES: dict[str, Callable[[Data], Source]] = {
    "mnist": MnistSource, "photos": PhotosSource, "images": images,
    "table": TableSource, "loanapp": loanapp, "diamonds": diamonds,
    "series": series.own, "vowels": series.vowels, "plaid": series.plaid,
    "forecast": forecast.own, "ecg": forecast.ecg,
    "text": TextSource, "reviews": ReviewsSource,
}  # fmt: skip


def open_source(data: Data) -> Source:
    """The reader for the `data` section."""
    if twice := [name for name in data.target if data.target.count(name) > 1]:
        raise UserError(f"data.target names '{twice[0]}' twice")
    if data.normal and data.task != "anomaly":
        raise UserError(
            "data.normal is of use to data.task 'anomaly' alone; leave it empty, or set that task"
        )
    source = SOURCES[data.source](data)
    if data.task == "generation":
        return GenerationSource(source)
    return AnomalySource(source, data) if data.task == "anomaly" else source
