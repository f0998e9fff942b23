"""What a source of raw samples is: the `data` section, and what `ingest` and `export` ask of a source."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field

from pipeline.core.params import Section
from serving.inputs.ragged import Rows
from serving.inputs.spec import DataSpec, ImageInput, Kind, TextInput

Name = Literal[
    "mnist",
    "photos",
    "images",
    "table",
    "loanapp",
    "diamonds",
    "series",
    "vowels",
    "plaid",
    "text",
    "reviews",
    "forecast",
    "ecg",
]


class Data(Section):
    """The `data` section: what the raw data is."""

    source: Name = Field(
        "mnist",
        description="Your own files, below path: 'images', 'table', 'series', 'forecast' or 'text'. Packaged: 'mnist' "
        "(digits), 'photos' (cells of photographs), 'loanapp', 'diamonds' (tables), 'vowels', 'plaid' (series), 'ecg' "
        "(forecast), 'reviews' (text).",
    )
    path: str = Field(
        "data/raw",
        min_length=1,
        description="A folder with one sub-folder a class for 'images'; a file, or a folder of files, for the others: "
        "CSV or Parquet, and .ts for series.",
    )
    target: tuple[str, ...] = Field(
        (), description="Columns to learn, of tables, series and texts; empty takes the last column."
    )
    task: Literal["auto", "classification", "regression", "anomaly"] = Field(
        "auto",
        description="'auto': regression where every target is a number of more than 20 different values; 'anomaly': "
        "learn what is normal.",
    )
    normal: tuple[str, ...] = Field((), description="For task 'anomaly': the classes that are normal.")
    drop: tuple[str, ...] = Field((), description="Columns that the model must not see.")
    kinds: dict[str, Kind] = Field(
        default_factory=dict, description="What columns of a table hold, where it should not be inferred."
    )
    group: str = Field("", description="Column whose rows of one value stay in one split.")
    time: str = Field(
        "",
        description="Column by which the split goes: the latest rows are the test. Of a long table of series: the "
        "column that orders the steps of each; empty keeps the order of the file.",
    )
    split: str = Field("", description="Column that names each row's split: train, val or test.")
    series_id: str = Field("id", description="Column of a long table of series that names the series.")
    window: int = Field(64, ge=2, le=100_000, description="Steps that a forecast is made from.")
    horizon: int = Field(0, ge=0, le=10_000, description="Steps that are forecast, for 'forecast' and 'ecg'.")
    stride: int = Field(1, ge=1, le=100_000, description="Steps from one window to the next.")
    max_steps: int = Field(4096, ge=2, le=100_000, description="Series with more steps are refused.")
    text_column: str = Field("text", min_length=1, description="Column that holds the texts.")
    max_categories: int = Field(
        1000, ge=2, le=1_000_000, description="Categories of a column at most; rarer ones are taken together."
    )
    image: ImageInput = Field(default_factory=lambda: ImageInput(), description="The canonical image.")
    text: TextInput = Field(default_factory=lambda: TextInput(), description="The canonical text.")


@dataclass(frozen=True)
class Chunk:
    """Samples that were decoded: columns by name, n rows each; where each came from; SHA-256 of its raw bytes."""

    columns: Mapping[str, Rows]
    origins: list[str]
    digests: list[str]

    def __len__(self) -> int:
        return len(self.origins)


@dataclass(frozen=True)
class Request:
    """A sample as a client sends it: the body, how a file of it is named, its content type."""

    body: bytes
    suffix: str
    content_type: str


class Source(Protocol):
    """A reader of samples, in a fixed order."""

    @property
    def spec(self) -> DataSpec:
        """What the samples are; its columns are those of a chunk, and `id`."""
        ...

    def __len__(self) -> int: ...
    def chunks(self, size: int, bad: list[str]) -> Iterator[Chunk]:
        """Decoded samples, `size` at a time; what cannot be used is told in `bad`, with its place."""
        ...

    def requests(self, origins: Collection[str]) -> dict[str, tuple[Request, ...]]:
        """Some samples as a client may send them, by their origin: every form, the sample's own first."""
        ...

    def left_out(self) -> list[str]:
        """What lies there and is no sample, by name."""
        ...
