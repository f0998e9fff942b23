"""TorchServe's entry point inside the archive: a shell over `serving.worker`.

Two module-level functions' worth of code and no class: TorchServe calls `handle(None, context)` once to
load and `handle(batch, context)` afterwards. The archive carries its own copy of the `serving` package,
which must win over an installed one, so that what was certified is what answers.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.worker.messages import Reply, Request
    from serving.worker.worker import Worker

_loaded: dict[str, Worker] = {}
JSON = "application/json"
BINARY = "inference-header-content-length"
OWN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def _load(folder: str, name: str) -> Worker:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else ONNX Runtime reports to Microsoft, from 1.32 on
    sys.path.insert(0, folder)
    for module in [each for each in sys.modules if each == "serving" or each.startswith("serving.")]:
        del sys.modules[module]
    from serving.worker.reading import read_ahead
    from serving.worker.worker import Worker

    read_ahead()
    state = os.environ.get("FAIRLEAD_STATE")
    return Worker(Path(folder) / "bundle", threads=1, state=Path(state) if state else None, name=name)


def _quiet(record: logging.LogRecord) -> bool:
    """Drop the line that a worker prints for each batch."""
    return not str(record.msg).startswith("Backend received inference")


def _hush() -> None:
    """Print nothing for each batch: a line wakes Java through a pipe, which took a third of a batch of one."""
    logging.getLogger().addFilter(_quiet)
    logging.getLogger("ts.metrics.caching_metric").setLevel(logging.WARNING)


def _body(item: dict[str, Any]) -> bytes | dict[str, Any]:
    """The raw body; a form upload arrives under its field's name instead of `body`.

    A server whose `decode_input_request` is on hands over JSON already decoded, of whatever type it is.
    """
    if "body" not in item and len(item) > 1:
        return dict.fromkeys(item)  # a form of several fields: refused, and its fields named
    body = item.get("body", next(iter(item.values()), b""))
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, dict) else json.dumps(body).encode()


def _requests(batch: list[dict[str, Any]], context: Any) -> list[Request]:
    """The batch as requests; one that brings a proper `X-Request-Id` keeps it."""
    from serving.worker.messages import Request

    found = []
    for at, item in enumerate(batch):
        given = context.get_all_request_header(at) or {}
        headers = {name.lower(): value for name, value in given.items() if isinstance(value, str)}
        if not headers:
            body, headers = _from_grpc(item, given)
        else:
            body, headers["kind"] = _body(item), _kind(given, item)
        own = headers.get("x-request-id", "")
        request_id = own if OWN_ID.fullmatch(own) else str(context.get_request_id(at))
        found.append(Request(request_id, body, headers, headers.pop("kind")))
    return found


def _kind(given: dict[str, Any], item: dict[str, Any]) -> str:
    """What is asked for: TorchServe's own headers tell `/predictions` (a `url_path`) from KServe's addresses.

    It writes them in lower case over a client's; another spelling is the client's.
    """
    if given.get("explain") == "True":
        return "explain"
    if any(name.lower() == BINARY for name in given):
        return "infer"  # whatever the address: `/predictions/NAME/VERSION` is the only one with a version
    if "explain" not in given or "url_path" in given:
        return "predict"
    # `/v1/models/NAME:predict` and `/v2/models/NAME/infer` differ by nothing but what they bring
    return "predict" if b'"instances"' in bytes(item.get("body", b"")) else "infer"


def _from_grpc(item: dict[str, Any], given: dict[str, Any]) -> tuple[bytes | dict[str, Any], dict[str, str]]:
    """Body and headers of a request without headers, as gRPC's are.

    A prediction's inputs beside its `body` stand for them. Of the Open Inference Protocol TorchServe makes JSON, with
    byte strings in base64; only that has a content type.
    """
    if given.get("body", {}).get("content-type") != JSON:
        named = {name.lower(): _text(value) for name, value in item.items() if name != "body"}
        alone = {"body": item["body"]} if "body" in item else item
        return _body(alone), {"grpc": "predict", "kind": "predict", **(named if "body" in item else {})}
    content = json.loads(bytes(item["body"]))
    for each in content["inputs"]:
        if each.get("datatype") == "BYTES":
            each["parameters"] = {"content_type": "base64"}
    return content, {"grpc": "infer", "kind": "infer"}


def _text(value: Any) -> str:
    return bytes(value).decode(errors="replace") if isinstance(value, bytes | bytearray) else str(value)


def _to_grpc(reply: Reply, way: str, context: Any, at: int) -> bytes:
    """The body of a reply over gRPC, where every item is an OK: what was refused says its status in the body.

    TorchServe ends the worker, with all that it was sent, where an inference's answer lacks a field of the protocol,
    and where a streamed prediction's has not said that nothing follows.
    """
    context.set_response_header(at, "ts_stream_next", "false")
    if reply.status == 200:
        return reply.body
    content = json.loads(reply.body)
    if way == "predict":
        return json.dumps({**content, "status": reply.status}).encode()
    told = {"name": "error", "datatype": "BYTES", "shape": [1], "data": [content["error"]]}
    head = {"id": content["request_id"], "model_name": "", "model_version": "", "outputs": [told]}
    return json.dumps(head).encode()


def handle(batch: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """Answer a batch; an item that cannot be decoded gets its own 400 with a reason."""
    if batch is None:
        _loaded["worker"] = _load(context.system_properties["model_dir"], context.model_name)
        _hush()
        return None
    requests = _requests(batch, context)
    bodies = []
    for at, (request, reply) in enumerate(zip(requests, _loaded["worker"].answer(requests), strict=True)):
        context.set_response_content_type(at, reply.content_type)
        for name, value in reply.headers.items():
            context.set_response_header(at, name, value)
        if reply.status != 200:
            context.set_response_status(code=reply.status, phrase=HTTPStatus(reply.status).phrase, idx=at)
        way = request.headers.get("grpc")
        bodies.append(_to_grpc(reply, way, context, at) if way else reply.body)
    return bodies
