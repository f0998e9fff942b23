"""TorchServe's entry point inside the archive: a shell over `serving.predictor`.

Two module-level functions' worth of code and no class: TorchServe calls `handle(None, context)` once to
load and `handle(batch, context)` afterwards. The archive carries its own copy of the `serving` package,
which must win over an installed one, so that what was certified is what answers.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.predictor import Predictor

_loaded: dict[str, Predictor] = {}


def _load(folder: str) -> Predictor:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else ONNX Runtime reports to Microsoft, from 1.32 on
    sys.path.insert(0, folder)
    for name in [name for name in sys.modules if name == "serving" or name.startswith("serving.")]:
        del sys.modules[name]
    from serving.predictor import Predictor

    return Predictor(Path(folder) / "bundle", backend="onnx", threads=1)


def _quiet(record: logging.LogRecord) -> bool:
    """Drop the line that a worker prints for each batch, at some cost, through a pipe to Java."""
    return not str(record.msg).startswith("Backend received inference")


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


def handle(batch: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """Answer a batch in JSON; an item that cannot be decoded gets its own 400 with a reason."""
    if batch is None:
        _loaded["predictor"] = _load(context.system_properties["model_dir"])
        logging.getLogger().addFilter(_quiet)
        return None
    ids = [str(context.get_request_id(at)) for at in range(len(batch))]
    answers = []
    for at, answer in enumerate(_loaded["predictor"].answer([_body(item) for item in batch], ids)):
        context.set_response_content_type(at, "application/json")
        if isinstance(answer, dict):
            answers.append(answer)
        else:
            context.set_response_status(code=400, phrase="Bad Request", idx=at)
            answers.append({"error": str(answer), "request_id": ids[at]})
    return [json.dumps(answer).encode() for answer in answers]
