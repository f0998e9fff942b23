"""Asks TorchServe for predictions over gRPC: the same answers and errors as `Client` gives over HTTP.

Needs the extra `grpc`. TorchServe's gRPC takes the same tokens, and sends what a model refused as a good answer: what
is wrong is in its body.
"""

from __future__ import annotations

import importlib.util
import json
import re
import uuid
from pathlib import Path
from typing import Any

from serving.client import PASSING
from serving.config import CONFIG
from serving.endpoint import RequestError, read_endpoint, read_token
from serving.protos import TORCHSERVE, torchserve

PORT = re.compile(r"^grpc_inference_port=(\d+)$", re.MULTILINE)  # in TorchServe's settings
METHOD = f"/{TORCHSERVE}.InferenceAPIsService/Predictions"
STATUSES = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 413,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}  # HTTP's, of what TorchServe says over gRPC
# What it says of its own exceptions, all of which it calls internal.
INTERNAL = {"Model not found": 404, "Model version": 404, "no worker to serve": 503, "Worker died": 507}


class GrpcClient:
    """A connection to one model on one server; threads may share it.

    Args:
        address: the server's `host:port` for gRPC.
        token: its inference token.
        name: the model's name.
        timeout: seconds to wait for one answer.

    Raises:
        RequestError: the extra `grpc` is not installed.
    """

    def __init__(self, address: str, token: str, name: str, timeout: float = 15.0) -> None:
        if not all(importlib.util.find_spec(module) for module in ("grpc", "google.protobuf")):
            raise RequestError(
                "gRPC needs the packages of the extra 'grpc': pip install --editable '.[grpc]'"
            )
        import grpc

        self._address, self._name, self._timeout = address, name, timeout
        self._token = [("authorization", f"Bearer {token}")]
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.insecure_channel(address, options)
        messages = torchserve()
        self._request = messages.PredictionsRequest
        self._call = self._channel.unary_unary(
            METHOD,
            request_serializer=messages.PredictionsRequest.SerializeToString,
            response_deserializer=messages.PredictionResponse.FromString,
        )

    @classmethod
    def local(cls, folder: Path, timeout: float = 15.0, name: str = "") -> GrpcClient:
        """A client of the server whose state folder this is, for its first model unless one is named.

        Raises:
            RequestError: the folder describes no server, it is down, or has no port of its own for gRPC.
        """
        endpoint = read_endpoint(folder)
        if endpoint.kind == "onnx":
            raise RequestError(
                "the server has no gRPC of its own; 'fairlead serve grpc' answers tritonclient before it"
            )
        found = PORT.search((folder / CONFIG).read_text()) if (folder / CONFIG).exists() else None
        if found is None or found[1] == "0":
            raise RequestError(
                "the server's port for gRPC is not known: set 'server.grpc_port' and start it anew"
            )
        return cls(f"127.0.0.1:{found[1]}", read_token(folder), name or endpoint.name, timeout)

    def predict(
        self, body: bytes, content_type: str = "", request_id: str | None = None, version: str = ""
    ) -> dict[str, Any]:
        """Send one raw body, as `Client.predict` does, and give the answer; a content type says nothing here.

        Raises:
            RequestError: the server refused it, failed, or did not answer in time.
        """
        import grpc

        del content_type
        given = {"body": body, "x-request-id": (request_id or uuid.uuid4().hex).encode()}
        request = self._request(model_name=self._name, model_version=version, input=given)
        try:
            response = self._call(request, timeout=self._timeout, metadata=self._token)
        except grpc.RpcError as error:
            raise self._told(error) from None
        answer: dict[str, Any] = json.loads(response.prediction)
        if "error" in answer:
            status = int(answer.get("status", 400))
            raise RequestError(f"{status}: {answer['error']}", status, passing=status in PASSING)
        return answer

    def _told(self, error: Any) -> RequestError:
        """An error of gRPC's in the words and with the status that HTTP would have."""
        code, reason = error.code().name, (error.details() or "no reason given").splitlines()[0]
        if code == "DEADLINE_EXCEEDED":
            return RequestError(f"no answer from {self._address} in time", passing=True)
        if code == "UNAVAILABLE" and not error.trailing_metadata() and "connect" in reason:
            return RequestError(f"cannot reach {self._address}: {reason}", reached=False, passing=True)
        if "RST_STREAM with error code 8" in reason:
            return RequestError("413: the server broke off, as it does over 'server.max_request_bytes'", 413)
        status = STATUSES.get(code, 500)
        status = next((known for words, known in INTERNAL.items() if words in reason), status)
        return RequestError(f"{status}: {reason}", status, passing=status in PASSING)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
