"""The data contract: what one sample is, shared by every stage, every model and the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

Modality = Literal["image", "table", "series", "text"]
Task = Literal["classification", "regression", "anomaly", "generation"]
Role = Literal["input", "target", "id", "group", "split", "time", "begin"]
Kind = Literal["number", "boolean", "date", "category"]


class ImageInput(BaseModel, extra="forbid", frozen=True):
    """How raw image bytes become one array of shape (C, H, W), dtype uint8."""

    height: int = Field(28, ge=4, le=1024, description="Height of the canonical image, in pixels.")
    width: int = Field(28, ge=4, le=1024, description="Width of the canonical image, in pixels.")
    channels: Literal[1, 3] = Field(1, description="1 for greyscale, 3 for RGB.")
    background: int = Field(
        255, ge=0, le=255, description="Grey level laid under transparent pixels, 0 to 255."
    )
    min_side: int = Field(4, ge=1, description="Images with a side shorter than this are refused, in pixels.")
    max_side: int = Field(
        8192, ge=16, le=13_000, description="Images with a longer side are refused undecoded, in pixels."
    )


class TableField(BaseModel, extra="forbid", frozen=True):
    """A column of a table that the model sees; `categories` are those known, in the order of their codes from 1."""

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()


class TableInput(BaseModel, extra="forbid", frozen=True):
    """How a raw row becomes one array (F + G,), float32: F numbers (NaN where missing), then G category codes.

    Booleans are 0 and 1, dates days since 1970, a category its place among those known, 0 where it is not.
    """

    fields: tuple[TableField, ...]

    @property
    def numbers(self) -> tuple[TableField, ...]:
        """The fields that are numbers to the model."""
        return tuple(field for field in self.fields if field.kind != "category")

    @property
    def categories(self) -> tuple[TableField, ...]:
        """The fields that are codes to the model."""
        return tuple(field for field in self.fields if field.kind == "category")


class SeriesInput(BaseModel, extra="forbid", frozen=True):
    """How a raw series becomes one array (T, C), float32, with NaN for what is missing."""

    channels: tuple[str, ...]
    min_steps: int = Field(2, ge=1, description="Series with fewer steps are refused.")
    max_steps: int = Field(4096, ge=2, description="Series with more steps are refused.")
    horizon: int = Field(0, ge=0, description="Steps that are forecast; 0 where it is no forecast.")
    forecasts: tuple[str, ...] = Field((), description="Channels that are forecast.")
    stride: int = Field(1, ge=1, description="Steps from one window of a forecast to the next.")


class TextInput(BaseModel, extra="forbid", frozen=True):
    """How a raw text becomes its UTF-8 bytes, and by `tokenizer.json` tokens (T,), int32, padded with 0."""

    max_tokens: int = Field(
        256, ge=4, le=8192, description="Tokens of a text that the model sees; more are cut."
    )
    max_bytes: int = Field(100_000, ge=1, description="Longer texts are refused, in bytes.")


class Column(BaseModel, extra="forbid", frozen=True):
    """One column of a data set folder; `shape` is that of one row, or of one step where rows are `ragged`."""

    name: str
    role: Role
    dtype: str
    shape: tuple[int, ...] = ()
    ragged: bool = False


class DataSpec(BaseModel, extra="forbid", frozen=True):
    """What a data set holds; saved as `spec.json` beside its columns and inside the bundle."""

    modality: Modality
    task: Task
    source: str
    columns: tuple[Column, ...]
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    image: ImageInput | None = None
    table: TableInput | None = None
    series: SeriesInput | None = None
    text: TextInput | None = None

    def role(self, role: Role) -> Column | None:
        """The column of a role."""
        return next((column for column in self.columns if column.role == role), None)

    @property
    def input(self) -> Column:
        """The column that the model sees."""
        return next(column for column in self.columns if column.role == "input")

    @property
    def target(self) -> Column:
        """The column that the model learns: class numbers (N,) int64, or values (N, M) float32."""
        return next(column for column in self.columns if column.role == "target")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) for images, (F + G,) for tables; of one step where rows are ragged."""
        return self.input.shape

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the model's outputs are, by name: classes (also of what is generated), targets, or the score."""
        named = {"regression": self.targets, "anomaly": ("score",)}
        return named.get(self.task, self.classes)

    @property
    def takes(self) -> BaseModel:
        """How raw input of this modality is read; two models take the same where these are equal."""
        found: BaseModel = getattr(self, self.modality)
        return found


class Transform(BaseModel, extra="forbid", frozen=True):
    """What was fitted on the training split, and is part of the exported graph.

    `(x - mean) / std` for each channel of images (on the 0..255 scale) or series and each number of a table; for
    each category of a table whether a code (from 0) occurs in training; the same scaling of regression targets;
    of forecasts the mean absolute error of the naive one for each target (in no graph);
    the number of known tokens of a text. Of series that are scaled each by itself the moments, over training's
    series, of their levels (2 C: logarithms of deviations, then means); the channels that training has gaps in.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    known: tuple[tuple[bool, ...], ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    naive_error: tuple[float, ...] = ()
    tokens: int = 0
    level_mean: tuple[float, ...] = ()
    level_std: tuple[float, ...] = ()
    gaps: tuple[int, ...] = ()


def write_json(path: Path, content: BaseModel | dict[str, Any]) -> None:
    """Write a model or a dict as indented JSON with a final newline."""
    plain = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
    path.write_text(json.dumps(plain, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def read_spec(folder: Path) -> DataSpec:
    """Read `spec.json` of a data set folder or a bundle."""
    return DataSpec.model_validate_json((folder / "spec.json").read_text())
