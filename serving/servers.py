"""The servers that can serve a bundle."""

from __future__ import annotations

from pathlib import Path

from serving.asgi.management import OnnxManagement
from serving.asgi.server import OnnxServer
from serving.endpoint import Kind, read_endpoint
from serving.management import Management
from serving.server import Server
from serving.torchserve import TorchServe

SERVERS: dict[Kind, type[Server]] = {"torchserve": TorchServe, "onnx": OnnxServer}


def management(folder: Path, timeout: float = 30.0) -> Management:
    """The management of the server that runs from a state folder, whichever it is.

    Raises:
        RequestError: none was started there.
    """
    kind = OnnxManagement if read_endpoint(folder).kind == "onnx" else Management
    return kind(folder, timeout)
