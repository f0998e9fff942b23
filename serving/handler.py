"""TorchServe's entry point inside the archive: a shell over `serving.predictor`.

Two module-level functions' worth of code and no class: TorchServe calls `handle(None, context)` once to
load and `handle(batch, context)` afterwards. The archive carries its own copy of the `serving` package,
which must win over an installed one, so that what was certified is what answers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.predictor import Predictor

_loaded: dict[str, Predictor] = {}


def _load(folder: str) -> Predictor:
    sys.path.insert(0, folder)
    for name in [name for name in sys.modules if name == "serving" or name.startswith("serving.")]:
        del sys.modules[name]
    from serving.predictor import Predictor

    return Predictor(Path(folder) / "bundle", backend="onnx", threads=1)


def _body(item: dict[str, Any]) -> bytes | dict[str, Any]:
    """The raw body; a form upload arrives under its field's name instead of `body` or `data`."""
    body = item.get("body", item.get("data", next(iter(item.values()), b"")))
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, dict) else bytes(body or b"")


def handle(batch: list[dict[str, Any]] | None, context: Any) -> list[dict[str, Any]] | None:
    """Answer a batch; an item that cannot be decoded gets its own 400 with a reason."""
    if batch is None:
        _loaded["predictor"] = _load(context.system_properties["model_dir"])
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
    return answers
