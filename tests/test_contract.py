"""What every server answers, whichever it is: the same bodies, the same refusals, the same tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from serving.client import Client
from serving.endpoint import KEY_FILE, RequestError, read_token
from serving.inputs.image import encode_png
from serving.predictor import Predictor
from serving.process import running
from serving.servers import SERVERS
from serving.torchserve import TorchServe
from tests.live import IMAGE, JSON, PIXELS, PNG, VERSION, explained, same_answer, settings_of

pytestmark = pytest.mark.slow
LIMIT = 100_000


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TorchServe]:
    """One worker and a long delay, so that requests sent together share a batch."""
    settings = settings_of(max_batch_delay=50, max_request_bytes=LIMIT)
    folder = tmp_path_factory.mktemp("state")
    folder.chmod(0o755)  # `start` must close it to others
    with SERVERS[request.param](archive, settings, folder) as started:
        started.start(PNG, "image/png")
        yield started


@pytest.fixture
def raw(server: TorchServe) -> Iterator[httpx.Client]:
    """Plain HTTP to the server, with its token."""
    endpoint = running(server.folder)
    assert endpoint
    headers = {"Authorization": f"Bearer {read_token(server.folder)}"}
    with httpx.Client(base_url=endpoint.url, headers=headers, trust_env=False, timeout=60) as client:
        yield client


def reason(answer: httpx.Response) -> str:
    """Why there is no answer: ours says `error`, TorchServe itself `message`."""
    content = answer.json()
    return content.get("error") or content["message"]


# --- what is answered


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (PNG, "image/png"),
        (PNG, "application/octet-stream"),
        (IMAGE, JSON),
        (IMAGE, f"{JSON}; charset=utf-8"),
        (json.dumps({"pixels": PIXELS[0].tolist()}).encode(), JSON),
    ],
)
def test_the_server_answers_as_the_predictor(
    server: TorchServe, bundle: Path, body: bytes, content_type: str
) -> None:
    with server.client() as client:
        same_answer(client.predict(body, content_type), bundle)


def test_a_form_upload_a_body_without_content_type_and_a_version(raw: httpx.Client, bundle: Path) -> None:
    for asked in (
        {"files": {"photo": ("a.png", PNG, "image/png")}},
        {"files": {"photo": ("a.json", IMAGE, JSON)}},
        {"files": {"photo": PNG + b"\r\n--x--\r\n"}},
        {"content": PNG},
        {"content": iter([PNG[:99], PNG[99:]])},  # chunked
    ):
        same_answer(raw.post("/predictions/digits", **asked).json(), bundle)
    answer = raw.post(f"/predictions/digits/{VERSION}", content=PNG)
    same_answer(answer.json(), bundle)
    assert answer.headers["content-type"] == JSON


def test_a_request_keeps_the_id_that_it_brings(raw: httpx.Client) -> None:
    for body in (PNG, b"rubbish"):
        told = raw.post("/predictions/digits", content=body, headers={"X-Request-Id": "a.B-9_"})
        assert told.json()["request_id"] == "a.B-9_"
    for odd in ("x" * 129, 'a"b', "a b", "", "é".encode("latin-1")):
        told = raw.post("/predictions/digits", content=PNG, headers=[(b"X-Request-Id", odd)])
        assert re.fullmatch(r"[0-9a-f-]{36}", told.json()["request_id"])


def test_ping_means_ready(raw: httpx.Client) -> None:
    assert raw.get("/ping").json() == {"status": "Healthy"}


def test_explanations_and_the_open_inference_protocol(raw: httpx.Client, bundle: Path) -> None:
    told = explained(raw, "/explanations/digits", content=PNG, headers={"X-Request-Id": "why"}).json()
    assert (told["request_id"], told["model_version"], told["method"]) == ("why", VERSION, "occlusion")
    assert np.array(told["attributions"]).shape == (28, 28)
    assert raw.get("/v2/health/ready").json() == {"ready": True}
    assert raw.get("/v2/health/live").json() == {"live": True}
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 28, 28], "data": PIXELS.ravel().tolist()}
    answer = raw.post("/v2/models/digits/infer", json={"id": "mine", "inputs": [tensor]}).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "digits", VERSION)
    expected = Predictor(bundle).answer([PNG])[0]
    assert isinstance(expected, dict)
    assert {each["name"]: each["data"] for each in answer["outputs"]}["label"] == [expected["label"]]
    refused = raw.post("/v2/models/digits/infer", json={"inputs": [tensor | {"datatype": "FP64"}]})
    assert refused.status_code == 400
    assert "FP64" in refused.json()["error"]
    rows = {"instances": [{"pixels": PIXELS[0].tolist()}] * 2}
    for place in ("/v1/models/digits:predict", "/predictions/digits"):
        assert len(raw.post(place, json=rows).json()["predictions"]) == 2
    assert raw.post("/v2/models/nobody/infer", json={"inputs": [tensor]}).status_code == 404


# --- what is refused

BAD = {
    "empty": (b"", "image/png", "empty"),
    "empty JSON": (b"", JSON, "empty"),
    "text": (b"hello there", "text/plain", "not a PNG or JPEG"),
    "truncated": (PNG[:300], "image/png", "truncated"),
    "one pixel": (encode_png(np.zeros((1, 1, 1), np.uint8)), "image/png", "1x1"),
    "too long": (encode_png(np.zeros((1, 12_000, 8), np.uint8)), "image/png", "12000"),
    "invalid JSON": (b'{"image": ', JSON, "not valid JSON"),
    "a JSON word": (b'"hello"', JSON, "not a PNG or JPEG"),
    "a JSON number": (b"123", JSON, "not a PNG or JPEG"),
    "a JSON list": (b'["a", 1]', JSON, "found list"),
    "wrong keys": (b'{"picture": "x", "size": 3}', JSON, "picture"),
    "not base64": (b'{"image": "?"}', JSON, "base64"),
    "wrong shape": (b'{"pixels": [[1, 2], [3, 4]]}', JSON, "shape"),
    "deep list": (b"[" * 90_000, JSON, "not valid JSON"),
    "deep object": (b'{"pixels":' * 9_000, JSON, "not valid JSON"),
    "deep pixels": (b'{"pixels":' + b"[" * 900 + b"]" * 900 + b"}", JSON, "pixels"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_body_gets_400_and_a_reason(server: TorchServe, bundle: Path, case: str) -> None:
    body, content_type, reason = BAD[case]
    with server.client() as client:
        with pytest.raises(RequestError, match=reason) as refused:
            client.predict(body, content_type)
        assert refused.value.status == 400
        same_answer(client.predict(PNG), bundle)


def test_a_form_of_two_files_is_refused(raw: httpx.Client) -> None:
    answer = raw.post("/predictions/digits", files={"one": PNG, "two": PNG})
    assert answer.status_code == 400
    assert "['one', 'two']" in answer.json()["error"]


def test_a_body_over_the_limit_gets_413(server: TorchServe, bundle: Path) -> None:
    with server.client() as client:
        for size in (LIMIT + 1, 50 * LIMIT):
            with pytest.raises(RequestError, match="Too Large") as refused:
                client.predict(b"x" * size)
            assert refused.value.status == 413
        with pytest.raises(RequestError, match="not a PNG"):
            client.predict(b"x" * LIMIT)
        same_answer(client.predict(PNG), bundle)


def test_bad_requests_spoil_no_other_of_their_batch(server: TorchServe, bundle: Path) -> None:
    bodies = [PNG, b"rubbish", IMAGE, b'["a"]'] * 12
    with server.client() as client, ThreadPoolExecutor(len(bodies)) as pool:

        def ask(body: bytes) -> dict | RequestError:
            try:
                return client.predict(body, JSON if body[:1] in b"{[" else "image/png")
            except RequestError as error:
                return error

        answers = list(pool.map(ask, bodies))
    ids = set()
    for body, answer in zip(bodies, answers, strict=True):
        if body in (PNG, IMAGE):
            assert isinstance(answer, dict), answer
            same_answer(answer, bundle)
            ids.add(answer["request_id"])
        else:
            assert isinstance(answer, RequestError)
            assert answer.status == 400
    assert len(ids) == len(bodies) // 2, "every answer has its own request id"


def test_what_is_not_there_is_said(raw: httpx.Client) -> None:
    for place, said in (("nobody", "nobody"), ("digits/9.9", "9.9")):
        answer = raw.post(f"/predictions/{place}", content=PNG)
        assert answer.status_code == 404
        assert said in reason(answer)


# --- who may ask


def test_without_the_right_token_nobody_asks(server: TorchServe, raw: httpx.Client) -> None:
    status = 401 if server.kind == "onnx" else 400
    right = raw.headers["Authorization"]
    for wrong in ("", "Bearer wrong", right[:-1], right + "x", right.replace("Bearer", "Basic")):
        for method, path in (("POST", "/predictions/digits"), ("GET", "/ping"), ("GET", "/v2")):
            answer = raw.request(method, path, headers={"Authorization": wrong})
            assert answer.status_code == status
            assert "Token" in reason(answer)
    with Client(str(raw.base_url), read_token(server.folder, "management"), "digits") as client:
        with pytest.raises(RequestError, match="Token Authorization failed") as refused:
            client.predict(PNG)
        assert refused.value.status == status


def test_tokens_are_private_and_every_port_is_loopback(server: TorchServe) -> None:
    assert (server.folder / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert server.folder.stat().st_mode & 0o777 == 0o700
    endpoint = running(server.folder)
    assert endpoint
    assert endpoint.scratch.stat().st_mode & 0o777 == 0o700
    root = psutil.Process(endpoint.pid)
    ports = [
        connection.laddr
        for process in (root, *root.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len({address.port for address in ports}) >= 2
    assert {address.ip.removeprefix("::ffff:") for address in ports} == {"127.0.0.1"}
    assert not (endpoint.scratch / ".ses").exists(), "ONNX Runtime's telemetry is off"
    metrics = httpx.get(f"{endpoint.metrics_url}/metrics")
    assert metrics.is_success, "metrics need no token"
    if server.kind == "onnx":
        assert 'fairlead_requests_total{kind="predict",model="digits",' in metrics.text
