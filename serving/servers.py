"""The servers that can serve a bundle."""

from __future__ import annotations

from serving.asgi.server import OnnxServer
from serving.client import Kind
from serving.server import TorchServe

SERVERS: dict[Kind, type[TorchServe]] = {"torchserve": TorchServe, "onnx": OnnxServer}
