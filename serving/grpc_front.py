"""The Open Inference Protocol over gRPC before either server, as the public `tritonclient` speaks it.

TorchServe's own gRPC has this service under another name, drops the raw tensors that tritonclient sends, and ends a
worker over an answer that it does not expect. So each call becomes one over HTTP to the server behind, which checks
the caller's token and whose answer comes back with its status. Needs the extra `grpc`; listens on loopback only.
"""

from __future__ import annotations

import hmac
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from serving.endpoint import RequestError, read_endpoint, read_token
from serving.inputs.spec import DataSpec
from serving.protos import KSERVE, kserve
from serving.state import Served, read_models
from serving.worker import v2

SERVICE = f"{KSERVE}.GRPCInferenceService"
HEADER = "Inference-Header-Content-Length"
THREADS = 32  # calls that are answered at once
CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    507: "UNAVAILABLE",
}  # gRPC's, of HTTP's
CONTENTS = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}


class Refused(Exception):
    """A call that gets no answer, with HTTP's status for it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Front:
    """Answers the protocol's calls for the server of a state folder, whichever that is at the moment.

    Args:
        folder: the state folder.
        timeout: seconds to wait for one answer.
    """

    def __init__(self, folder: Path, timeout: float = 15.0) -> None:
        self.folder = folder
        self._made = kserve()
        limits = httpx.Limits(max_connections=THREADS, max_keepalive_connections=THREADS)
        self._http = httpx.Client(timeout=timeout, limits=limits, trust_env=False)

    def server_live(self, request: Any, token: str) -> Any:
        """Whether this process answers, which it does."""
        del request, token
        return self._made.ServerLiveResponse(live=True)

    def server_ready(self, request: Any, token: str) -> Any:
        """Whether the server's own `/ping` says so."""
        del request
        return self._made.ServerReadyResponse(ready=self._healthy(token))

    def model_ready(self, request: Any, token: str) -> Any:
        """Whether the model is served, and the server is ready."""
        self._check(token)
        self._served(request.name, request.version)
        return self._made.ModelReadyResponse(ready=self._healthy(token))

    def server_metadata(self, request: Any, token: str) -> Any:
        """What this server is."""
        del request, token
        return self._made.ServerMetadataResponse(**v2.server_metadata())

    def model_metadata(self, request: Any, token: str) -> Any:
        """The model's input and outputs."""
        self._check(token)
        served = self._served(request.name, request.version)
        spec = _spec(served.versions[request.version or served.default])
        told = v2.model_metadata(spec, request.name, sorted(served.versions))
        tensors = {
            way: [self._made.TensorMetadata(**each) for each in told[way]] for way in ("inputs", "outputs")
        }
        return self._made.ModelMetadataResponse(**{**told, **tensors})

    def model_infer(self, request: Any, token: str) -> Any:
        """An inference; TorchServe takes a version at `/predictions` alone."""
        body, headers = to_http(request)
        name, version = quote(request.model_name, safe=""), quote(request.model_version, safe="")
        path = f"/v2/models/{name}{f'/versions/{version}' if version else ''}/infer"
        given = {"content": body, "headers": headers}
        response = self._sent("POST", path, token, **given)
        if response.status_code == 501:
            response = self._sent("POST", f"/predictions/{name}/{version}", token, **given)
        if response.status_code != 200:
            raise Refused(*_reason(response))
        return self._from_http(response)

    def _sent(self, method: str, path: str, token: str, **given: Any) -> httpx.Response:
        headers = {**given.pop("headers", {}), **({"Authorization": token} if token else {})}
        try:
            return self._http.request(method, read_endpoint(self.folder).url + path, headers=headers, **given)
        except (httpx.HTTPError, ValueError) as error:
            status = 504 if isinstance(error, httpx.TimeoutException) else 503
            raise Refused(status, f"the server behind does not answer: {error}") from None

    def _check(self, token: str) -> None:
        """What is answered from the state folder needs the token that the server itself would ask for."""
        try:
            own = f"Bearer {read_token(self.folder)}"
        except RequestError as error:
            raise Refused(503, str(error)) from None
        if not hmac.compare_digest(token.encode(), own.encode()):
            raise Refused(403, "Token Authorization failed: it is not the server's inference token")

    def _healthy(self, token: str) -> bool:
        try:
            return self._sent("GET", "/ping", token).status_code == 200
        except Refused:
            return False

    def _served(self, name: str, version: str) -> Served:
        served = read_models(self.folder).models.get(name)
        if served is None or (version and version not in served.versions):
            raise Refused(404, f"model '{name}'{f' in version {version!r}' if version else ''} is not served")
        return served

    def _from_http(self, response: httpx.Response) -> Any:
        length = int(response.headers[HEADER])
        told, tail = json.loads(response.content[:length]), response.content[length:]
        made = self._made
        found = made.ModelInferResponse(**{key: told[key] for key in ("model_name", "model_version", "id")})
        for name, value in told["parameters"].items():
            found.parameters[name].string_param = value
        for each in told["outputs"]:
            found.outputs.append(
                made.InferOutputTensor(**{key: each[key] for key in ("name", "datatype", "shape")})
            )
            size = each["parameters"]["binary_data_size"]
            found.raw_output_contents.append(tail[:size])
            tail = tail[size:]
        return found


def to_http(request: Any) -> tuple[bytes, dict[str, str]]:
    """A `ModelInferRequest` as a body with its values in binary, and the headers that say so.

    Raises:
        Refused: raw contents that are not one for each input.
    """
    inputs, tail = [], b""
    raws = list(request.raw_input_contents)
    if raws and len(raws) != len(request.inputs):
        raise Refused(400, f"{len(raws)} raw contents for {len(request.inputs)} inputs; expected one each")
    for at, tensor in enumerate(request.inputs):
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        raw = raws[at] if at < len(raws) else None
        if raw is None and tensor.datatype == "BYTES":
            items = tensor.contents.bytes_contents
            raw = b"".join(len(item).to_bytes(4, "little") + item for item in items)
        if raw is not None:
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        elif tensor.datatype in CONTENTS:
            entry["data"] = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
        inputs.append(entry)
    content = {
        "id": request.id,
        "inputs": inputs,
        "outputs": [{"name": each.name} for each in request.outputs],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(content).encode()
    return text + tail, {HEADER: str(len(text)), "Content-Type": "application/octet-stream"}


def _spec(archive: Path) -> DataSpec:
    try:
        with zipfile.ZipFile(archive) as packed:
            return DataSpec.model_validate_json(packed.read("bundle/spec.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise Refused(503, f"{archive.name} cannot be read: {error}") from None


def _reason(response: httpx.Response) -> tuple[int, str]:
    try:
        content = response.json()
    except ValueError:
        content = {}
    said = str(content.get("error") or content.get("message") or response.reason_phrase)
    return 403 if said.startswith("Token Authorization failed") else response.status_code, said


def serve(folder: Path, port: int, largest: int, timeout: float = 15.0) -> Any:
    """A started gRPC server on a loopback port, 0 for a free one; its `port` says which.

    Args:
        folder: state folder of the server behind.
        port: where it listens.
        largest: bytes of a message, both ways.
        timeout: seconds that the server behind has for an answer.

    Raises:
        OSError: the port is taken.
    """
    import grpc

    front, made = Front(folder, timeout), kserve()

    def answering(call: Callable[[Any, str], Any]) -> Callable[[Any, Any], Any]:
        def answer(request: Any, context: Any) -> Any:
            token = dict(context.invocation_metadata()).get("authorization", "")
            try:
                return call(request, str(token))
            except Refused as error:
                status = CODES.get(error.status, "INTERNAL" if error.status >= 500 else "FAILED_PRECONDITION")
                return context.abort(getattr(grpc.StatusCode, status), str(error))

        return answer

    calls = {
        name: grpc.unary_unary_rpc_method_handler(
            answering(call),
            request_deserializer=getattr(made, f"{name}Request").FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for name, call in {
            "ServerLive": front.server_live,
            "ServerReady": front.server_ready,
            "ModelReady": front.model_ready,
            "ServerMetadata": front.server_metadata,
            "ModelMetadata": front.model_metadata,
            "ModelInfer": front.model_infer,
        }.items()
    }
    options = [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(ThreadPoolExecutor(THREADS), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, calls),))
    try:
        server.port = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError as error:
        raise OSError(f"port {port} cannot be listened on: {error}") from None
    server.start()
    return server
