"""The data contract: what one sample is, shared by every stage, every model and the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

Modality = Literal["image"]
Role = Literal["input", "target", "id", "group"]


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


class Column(BaseModel, extra="forbid", frozen=True):
    """One `.npy` file of a data set folder; `shape` is that of one row."""

    name: str
    role: Role
    dtype: str
    shape: tuple[int, ...] = ()


class DataSpec(BaseModel, extra="forbid", frozen=True):
    """What a data set holds; saved as `spec.json` beside its columns and inside the bundle."""

    modality: Modality
    task: Literal["classification"]
    source: str
    columns: tuple[Column, ...]
    classes: tuple[str, ...]
    image: ImageInput

    @property
    def input(self) -> Column:
        """The column that the model sees."""
        return next(column for column in self.columns if column.role == "input")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, (C, H, W) for images."""
        return self.input.shape


class Transform(BaseModel, extra="forbid", frozen=True):
    """What was fitted on the training split: `(x - mean) / std` for each channel, on the 0..255 scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


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
