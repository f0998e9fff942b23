"""The JSON that a model takes and gives, as JSON Schema made from its specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.inputs.generation import SEEDS
from serving.inputs.spec import DataSpec, TableField
from serving.inputs.table import LARGEST
from serving.worker.messages import MOST_ROWS

Schema = dict[str, Any]
NUMBER: Schema = {"type": ["number", "null"], "minimum": -LARGEST, "maximum": LARGEST}
TOLD = {"model_version": {"type": "string"}, "request_id": {"type": "string"}}
NAMED = "Known to the model: "
MOST_NAMED = 50  # categories that a description lists


def schemas(spec: DataSpec) -> dict[str, Schema]:
    """What a version takes and gives, one or many."""
    one = answer(spec)
    each = {key: value for key, value in one["properties"].items() if key not in TOLD}
    row = {**_object(each, *each), "additionalProperties": True}
    return {
        "request": request(spec),
        "rows": _object({"instances": _list(request(spec), 1, MOST_ROWS)}, "instances"),
        "answer": one,
        "answers": {
            "type": "object",
            "properties": {"predictions": {"type": "array", "items": row}, **TOLD},
            "required": ["predictions", *TOLD],
        },
    }


def request(spec: DataSpec) -> Schema:
    """The JSON body that a model takes."""
    if spec.task == "generation":
        seed = {"type": "integer", "minimum": 0, "maximum": SEEDS - 1}
        about = "The same label and seed give the same image; drawn where none is given."
        given = {
            "label": {"type": "string", "enum": list(spec.classes)},
            "seed": {**seed, "description": about},
        }
        return _object(given, "label")
    return REQUESTS[spec.modality](spec)


def _object(properties: dict[str, Any], *required: str) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Schema, least: int, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _image(spec: DataSpec) -> Schema:
    image = spec.image
    assert image is not None
    about = (
        f"PNG or JPEG in base64, every side between {image.min_side} and {image.max_side} pixels; "
        f"resized to {image.width}x{image.height}."
    )
    encoded = {"type": "string", "contentEncoding": "base64", "description": about}
    pixel: Schema = {"type": "integer", "minimum": 0, "maximum": 255}
    if image.channels > 1:
        pixel = _list(pixel, image.channels, image.channels)
    pixels = _list(_list(pixel, image.width, image.width), image.height, image.height)
    return {"oneOf": [_object({"image": encoded}, "image"), _object({"pixels": pixels}, "pixels")]}


def _field(field: TableField) -> Schema:
    if field.kind == "number":
        return NUMBER
    if field.kind == "boolean":
        return {"type": ["boolean", "null"]}
    if field.kind == "date":
        return {
            "type": ["string", "null"],
            "format": "date",
            "description": "ISO 8601, with or without a time.",
        }
    known = ", ".join(field.categories[:MOST_NAMED]) + (", ..." if len(field.categories) > MOST_NAMED else "")
    about = f"{NAMED}{known}. Any other counts as missing."
    return {"type": ["string", "number", "boolean", "null"], "description": about}


def _table(spec: DataSpec) -> Schema:
    assert spec.table is not None
    fields = {field.name: _field(field) for field in spec.table.fields}
    return {**_object(fields, *fields), "description": "null where a value is not known"}


def _series(spec: DataSpec) -> Schema:
    series = spec.series
    assert series is not None
    count = len(series.channels)
    step: Schema = {**_list(NUMBER, count, count), "description": ", ".join(series.channels)}
    if count == 1:
        step = {"anyOf": [NUMBER, step]}
    steps = _list(step, series.min_steps, series.max_steps)
    return _object(
        {"series": {**steps, "description": "A list a step; null where a value is missing."}}, "series"
    )


def _text(spec: DataSpec) -> Schema:
    assert spec.text is not None
    about = f"At most {spec.text.max_bytes} bytes in UTF-8; the model sees {spec.text.max_tokens} tokens."
    text = {"type": "string", "pattern": r"\S", "maxLength": spec.text.max_bytes, "description": about}
    return _object({"text": text}, "text")


REQUESTS: dict[str, Callable[[DataSpec], Schema]] = {
    "image": _image, "table": _table, "series": _series, "text": _text,
}  # fmt: skip


def answer(spec: DataSpec) -> Schema:
    """The JSON that a model answers."""
    number: Schema = {"type": "number"}
    label = {"type": "string", "enum": list(spec.classes)}
    if spec.task == "generation":
        image = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
        said: dict[str, Any] = {"label": label, "seed": {"type": "integer"}, "image": image}
    elif spec.task == "anomaly":
        about = "Above 1 is an anomaly."
        embedding = {"type": "array", "items": number}
        said = {
            "anomaly": {"type": "boolean"},
            "score": {**number, "description": about},
            "embedding": embedding,
        }
    else:
        outputs = spec.outputs
        if spec.task == "classification":
            number = {"type": "number", "minimum": 0, "maximum": 1.0001}  # a sum of float32 may lie above 1
        values = _object(dict.fromkeys(outputs, number), *outputs)
        said = (
            {"label": label, "probabilities": values} if spec.task == "classification" else {"values": values}
        )
    return {"type": "object", "properties": {**said, **TOLD}, "required": [*said, *TOLD]}
