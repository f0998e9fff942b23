"""Describes the endpoint in OpenAPI 3.1, from nothing but the specification of its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.inputs.spec import DataSpec
from serving.schemas import TOLD, Schema, schemas
from serving.worker.explain import TARGET

Specs = Mapping[str, Mapping[str, DataSpec]]  # a model's name, its version: the specification
JSON = "application/json"
ID = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
NAMING = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "schema": ID,
    "description": "Names the request in its answer and in the log.",
}
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
    parts: dict[str, Any] = {"Error": _error(), "Explanation": _explanation()}
    for name, versions in models.items():
        latest = next(iter(versions))  # the default, which comes first
        for version, spec in versions.items():
            parts |= {f"{name}-{version}-{what}": schema for what, schema in schemas(spec).items()}
            for pinned in ("", version) if version == latest else (version,):
                place = f"{name}/{pinned}" if pinned else name
                paths[f"/predictions/{place}"] = {"post": _predict(name, version, spec, pinned)}
                paths[f"/explanations/{place}"] = {"post": _explain(name, version, spec, pinned)}
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
            "schemas": parts,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                code: {"description": text, "content": {JSON: {"schema": _ref("Error")}}}
                for code, text in REASONS.items()
            },
        },
    }


def _explanation() -> Schema:
    said: dict[str, Any] = {
        "target": {"type": "string"},
        "score": {"type": "number", "description": "The output that is explained."},
        "method": {"type": "string"},
        "attributions": {"description": "How much of the score each part of the input is worth."},
        **TOLD,
    }
    return {"type": "object", "properties": said, "required": list(said)}


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
    one, many = (_ref(f"{name}-{version}-{what}") for what in ("request", "rows"))
    said, more = (_ref(f"{name}-{version}-{what}") for what in ("answer", "answers"))
    return {
        "operationId": f"predict-{name}" + (f"-{pinned}" if pinned else ""),
        "summary": f"Ask {name}" + (f", version {pinned}" if pinned else ""),
        "parameters": [NAMING],
        "requestBody": {"required": True, "content": _bodies(spec, {"anyOf": [one, many]})},
        "responses": {
            "200": {
                "description": "The answer; of rows their answers in order.",
                "content": {JSON: {"schema": {"anyOf": [said, more]}}},
            },
            **_refusals(*REASONS),
        },
    }


def _explain(name: str, version: str, spec: DataSpec, pinned: str) -> dict[str, Any]:
    target = {"type": "string", "enum": list(spec.outputs)}
    about = "What about the answer is explained, if not the likeliest class or the first value."
    return {
        "operationId": f"explain-{name}" + (f"-{pinned}" if pinned else ""),
        "summary": f"Ask {name} what its answer depends on" + (f", version {pinned}" if pinned else ""),
        "parameters": [
            NAMING,
            {"name": TARGET, "in": "header", "required": False, "schema": target, "description": about},
        ],
        "requestBody": {"required": True, "content": _bodies(spec, _ref(f"{name}-{version}-request"))},
        "responses": {
            "200": {"description": "What it depends on.", "content": {JSON: {"schema": _ref("Explanation")}}},
            **_refusals(*REASONS),
        },
    }


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
