"""Describes the endpoint in OpenAPI 3.1, from nothing but the specification of its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serving.inputs.generation import SEEDS
from serving.inputs.spec import DataSpec, TableField
from serving.inputs.table import LARGEST

Schema = dict[str, Any]
Specs = Mapping[str, Mapping[str, DataSpec]]  # a model's name, its version: the specification
JSON = "application/json"
NUMBER: Schema = {"type": ["number", "null"], "minimum": -LARGEST, "maximum": LARGEST}
ID = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
NAMED = "Known to the model: "
MOST_NAMED = 50  # categories that a description lists
REASONS = {
    "400": "What was sent cannot be read; the reason names what is wrong and where.",
    "401": "No token, or a wrong one. (TorchServe says 400.)",
    "404": "No such model or version.",
    "405": "No such method here.",
    "408": "The request did not come in whole in time. (TorchServe waits for ever.)",
    "413": "The body is over the limit. (TorchServe without a front says so in the status line alone.)",
    "429": "More requests than are allowed; `Retry-After` says when to come again.",
    "500": "The model failed.",
    "503": "Not ready, or too many requests wait.",
    "504": "The model did not answer in time. (TorchServe says 500.)",
}


def document(models: Specs) -> dict[str, Any]:
    """The endpoint with these models: addresses, bodies, answers, errors, and the token that all of it needs."""
    paths: dict[str, Any] = {"/ping": {"get": _ping()}}
    schemas: dict[str, Any] = {"Error": _error()}
    for name, versions in models.items():
        for version, spec in versions.items():
            schemas |= {f"{name}-{version}-request": request(spec), f"{name}-{version}-answer": answer(spec)}
        latest = next(iter(versions))  # the default, which comes first
        paths[f"/predictions/{name}"] = {"post": _predict(name, latest, versions[latest], "")}
        for version, spec in versions.items():
            paths[f"/predictions/{name}/{version}"] = {"post": _predict(name, version, spec, version)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Predictions of {', '.join(models)}",
            "version": ", ".join(next(iter(versions)) for versions in models.values()),
            "description": "Made from the models' specifications by Fairlead.",
        },
        "paths": paths,
        "security": [{"token": []}],
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                code: {"description": text, "content": {JSON: {"schema": _ref("Error")}}}
                for code, text in REASONS.items()
            },
        },
    }


def _ref(name: str, kind: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _refusals(*codes: str) -> dict[str, Any]:
    return {code: _ref(code, "responses") for code in codes}


def _error() -> Schema:
    """Ours, and what TorchServe says before the model is asked."""
    text = {"type": "string"}
    ours = {"error": {**text, "minLength": 1}, "request_id": text}
    theirs = {"code": {"type": "integer"}, "type": text, "message": text}
    return {
        "anyOf": [{"type": "object", "properties": each, "required": list(each)} for each in (ours, theirs)]
    }


def _ping() -> dict[str, Any]:
    status = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    return {
        "operationId": "ping",
        "summary": "Ready for requests?",
        "responses": {
            "200": {"description": "Ready.", "content": {JSON: {"schema": status}}},
            **_refusals("400", "401", "503"),
        },
    }


def _predict(name: str, version: str, spec: DataSpec, pinned: str) -> dict[str, Any]:
    said = {"schema": _ref(f"{name}-{version}-answer")}
    return {
        "operationId": f"predict-{name}" + (f"-{pinned}" if pinned else ""),
        "summary": f"Ask {name}" + (f", version {pinned}" if pinned else ""),
        "parameters": [
            {"name": "X-Request-Id", "in": "header", "required": False, "schema": ID,
             "description": "Names the request in its answer and in the log."}
        ],
        "requestBody": {"required": True, "content": _bodies(spec, _ref(f"{name}-{version}-request"))},
        "responses": {
            "200": {"description": "The answer.", "content": {JSON: said}},
            **_refusals(*REASONS),
        },
    }  # fmt: skip


def _bodies(spec: DataSpec, body: Schema) -> dict[str, Any]:
    """What may be sent, by content type."""
    if spec.task == "generation":
        return {JSON: {"schema": body}}
    plain = {
        "image": ("image/png", "image/jpeg"), "table": ("text/csv",), "series": ("text/csv",), "text": ("text/plain",),
    }[spec.modality]  # fmt: skip
    kind: Schema = {"type": "string", "description": PLAIN[spec.modality]}
    return {JSON: {"schema": body}} | {each: {"schema": kind} for each in plain}


PLAIN = {
    "image": "The file's bytes.",
    "table": "A header line and one row, or a row alone with every column in order.",
    "series": "A line a step, with or without a header line of the channels' names.",
    "text": "The text in UTF-8.",
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
    told = {"model_version": {"type": "string"}, "request_id": {"type": "string"}}
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
    return {"type": "object", "properties": {**said, **told}, "required": [*said, *told]}
