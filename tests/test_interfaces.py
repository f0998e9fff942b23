"""One live TorchServe through every interface: rows, the Open Inference Protocol, gRPC, explanations."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient import grpc as over_grpc
from tritonclient.grpc import service_pb2 as triton
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from pipeline.cli import app
from serving.archive import build_archive
from serving.asgi.server import OnnxServer
from serving.client import Client
from serving.endpoint import RequestError, read_token
from serving.grpc_client import METHOD, GrpcClient
from serving.grpc_front import serve
from serving.protos import torchserve
from serving.server import free_ports, running
from serving.torchserve import TorchServe
from tests.live import explained, settings_of
from tests.planted import COLUMN, planted

pytestmark = pytest.mark.slow
ROW = b'{"age": 30, "income": 0.9, "member": true, "colour": "red"}'
CSV = b"30,0.9,true,red\n30,0.1,true,red\n"
TENSOR = np.array([[30, 0.9, 1, 1], [30, 0.1, 1, 1]], np.float32)
ITS_OWN = "/org.pytorch.serve.grpc.openinference.GRPCInferenceService"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """One worker and a long delay, so that requests sent together share a batch."""
    folder = tmp_path_factory.mktemp("interfaces")
    build_archive(planted(folder / "bundle", "table"), folder / "table.mar", "table")
    settings = settings_of(max_batch_delay=50, grpc_port=free_ports()["inference_port"])
    with TorchServe(folder / "table.mar", settings, folder / "state") as started:
        started.start(ROW, "application/json")
        yield started


@pytest.fixture
def raw(server: TorchServe) -> Iterator[httpx.Client]:
    endpoint = running(server.folder)
    assert endpoint
    headers = {"Authorization": f"Bearer {read_token(server.folder)}"}
    with httpx.Client(base_url=endpoint.url, headers=headers, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def channel(server: TorchServe) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.settings.grpc_port}") as opened:
        yield opened


def called(server: TorchServe, channel: grpc.Channel, method: str, request: Any, response: Any) -> Any:
    call = channel.unary_unary(
        method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
    )
    return call(request, timeout=20, metadata=[("authorization", f"Bearer {read_token(server.folder)}")])


# --- HTTP


def test_rows_are_answered_in_order(raw: httpx.Client) -> None:
    for body in (
        CSV,
        b"member,age,colour,income\ntrue,30,red,0.9\ntrue,30,red,0.1",
        json.dumps({"instances": [json.loads(ROW), [30, 0.1, True, "red"]]}).encode(),
    ):
        told = raw.post("/predictions/table", content=body, headers={"X-Request-Id": "rows-1"}).json()
        assert [each["label"] for each in told["predictions"]] == ["yes", "no"], body
        assert (told["model_version"], told["request_id"]) == ("1234abcd", "rows-1")
    told = raw.post("/v1/models/table:predict", json={"instances": [json.loads(ROW)]}).json()
    assert [each["label"] for each in told["predictions"]] == ["yes"]


def triton_to(server: TorchServe) -> tuple[InferenceServerClient, dict[str, str]]:
    endpoint = running(server.folder)
    assert endpoint
    client = InferenceServerClient(endpoint.url.removeprefix("http://"))
    return client, {"Authorization": f"Bearer {read_token(server.folder)}"}


def test_tritonclient_is_answered_over_http(server: TorchServe) -> None:
    client, token = triton_to(server)
    assert client.is_server_live(headers=dict(token))
    assert client.is_server_ready(headers=dict(token))
    assert client.get_server_metadata(headers=dict(token))["name"] == "Torchserve"
    given = InferInput("row", [2, 4], "FP32")
    given.set_data_from_numpy(TENSOR)
    found = client.infer("table", [given], headers=dict(token), request_id="mine")
    assert found.as_numpy("label").tolist() == [b"yes", b"no"]
    assert found.get_response()["id"] == "mine"
    given = InferInput("row", [1, 3], "FP32")
    given.set_data_from_numpy(TENSOR[:1, :3])
    with pytest.raises(InferenceServerException, match=r"shape \[1, 3\]; expected \[-1, 4\]"):
        client.infer("table", [given], headers=dict(token))
    client.close()


def test_what_torchserve_does_not_answer_of_the_protocol(server: TorchServe, raw: httpx.Client) -> None:
    """As docs/serving.md says; where an update of TorchServe answers more, say so there."""
    client, token = triton_to(server)
    assert not client.is_model_ready("table", headers=dict(token))
    assert raw.get("/v2/models/table").status_code == 404
    assert raw.post("/v2/models/table/versions/1234abcd/infer", content=b"{}").status_code == 501
    client.close()


def test_an_explanation_names_the_column_that_decides_and_spoils_no_prediction(raw: httpx.Client) -> None:
    explained(raw, "/explanations/table", content=ROW)
    with ThreadPoolExecutor(12) as pool:
        whys = [pool.submit(raw.post, "/explanations/table", content=ROW) for _ in range(3)]
        predicted = [pool.submit(raw.post, "/predictions/table", content=ROW) for _ in range(6)]
        broken = [pool.submit(raw.post, "/explanations/table", content=b"{}") for _ in range(3)]
    for future in whys:
        told = future.result().json()
        assert (told["target"], told["model_version"]) == ("yes", "1234abcd")
        assert max(told["attributions"], key=told["attributions"].get) == COLUMN
    assert all(future.result().json()["label"] == "yes" for future in predicted)
    for future in broken:
        assert future.result().status_code == 400
        assert "missing columns" in future.result().json()["error"]
    no = raw.post("/explanations/table", content=ROW, headers={"X-Explain-Target": "no"}).json()
    assert (no["target"], min(no["attributions"], key=no["attributions"].get)) == ("no", COLUMN)
    plain = raw.post("/predictions/table", content=ROW, headers={"Explain": "True"}).json()
    assert plain["label"] == "yes", "a client's own header changes nothing"


# --- gRPC


def test_grpc_gives_the_answers_and_errors_of_http(server: TorchServe) -> None:
    with GrpcClient.local(server.folder) as grpcs, server.client() as over_http:
        answer = grpcs.predict(ROW, request_id="own-1")
        assert answer["request_id"] == "own-1"
        assert {**answer, "request_id": 0} == {**over_http.predict(ROW), "request_id": 0}
        assert [each["label"] for each in grpcs.predict(CSV)["predictions"]] == ["yes", "no"]
        for bad in (b"{}", b"1,2", b"", b'["a"]'):
            errors = []
            for client in (grpcs, over_http):
                with pytest.raises(RequestError) as refused:
                    client.predict(bad)  # type: ignore[attr-defined]
                errors.append((str(refused.value), refused.value.status))
            assert errors[0] == errors[1]
            assert errors[0][1] == 400
        with pytest.raises(RequestError, match="404: Model version: 9 does not exist"):
            grpcs.predict(ROW, version="9")


def test_grpc_wants_the_token_a_known_model_and_a_server(server: TorchServe) -> None:
    address = f"127.0.0.1:{server.settings.grpc_port}"
    for token in ("wrong", read_token(server.folder, "management")):
        with GrpcClient(address, token, "table") as client:
            with pytest.raises(RequestError, match="403: Token Authorization failed") as refused:
                client.predict(ROW)
            assert refused.value.status == 403
    nothing = GrpcClient(address, read_token(server.folder), "nothing")
    with nothing, pytest.raises(RequestError, match="404: Model not found: nothing"):
        nothing.predict(ROW)
    with GrpcClient(f"127.0.0.1:{free_ports()['inference_port']}", "x", "table") as client:
        with pytest.raises(RequestError, match="cannot reach") as refused:
            client.predict(ROW)
        assert refused.value.status is None


def test_a_body_over_the_limit_is_refused_over_grpc(server: TorchServe) -> None:
    with GrpcClient.local(server.folder) as client:
        with pytest.raises(RequestError, match="413") as refused:
            client.predict(b"x" * (server.settings.max_request_bytes + 1))
        assert refused.value.status == 413
        assert client.predict(ROW)["label"] == "yes"


def test_no_call_of_torchserves_own_grpc_ends_a_worker(server: TorchServe, channel: grpc.Channel) -> None:
    """TorchServe itself would end it: after a streamed prediction, and after an inference that is refused."""
    workers = worker_ids(server)
    messages = torchserve()
    request = messages.PredictionsRequest(model_name="table", input={"body": ROW})
    stream = channel.unary_stream(
        METHOD.replace("Predictions", "StreamPredictions"),
        request_serializer=type(request).SerializeToString,
        response_deserializer=messages.PredictionResponse.FromString,
    )
    metadata = [("authorization", f"Bearer {read_token(server.folder)}")]
    (one,) = stream(request, timeout=20, metadata=metadata)
    assert json.loads(one.prediction)["label"] == "yes"
    right = triton.ModelInferRequest(model_name="table", id="i1")
    tensor = right.inputs.add(name="row", datatype="FP32", shape=[2, 4])
    tensor.contents.fp32_contents.extend(TENSOR.ravel().tolist())
    bodies = triton.ModelInferRequest(model_name="table")
    bodies.inputs.add(name="row", datatype="BYTES", shape=[1]).contents.bytes_contents.append(ROW)
    for asked, label in ((right, b'"yes"'), (bodies, b'"yes"')):
        found = called(server, channel, f"{ITS_OWN}/ModelInfer", asked, triton.ModelInferResponse)
        assert found.outputs[0].contents.bytes_contents[0] == label
        assert found.model_version == "1234abcd"
    raw = triton.ModelInferRequest(model_name="table", raw_input_contents=[TENSOR.tobytes()])
    raw.inputs.add(name="row", datatype="FP32", shape=[2, 4])
    nothing = triton.ModelInferRequest(model_name="table")
    odd = triton.ModelInferRequest(model_name="table")
    odd.inputs.add(name="row", datatype="ODD", shape=[1])
    for asked in (raw, nothing, odd):
        found = called(server, channel, f"{ITS_OWN}/ModelInfer", asked, triton.ModelInferResponse)
        assert found.outputs[0].name == "error"
    assert worker_ids(server) == workers


def worker_ids(server: TorchServe) -> set[int]:
    endpoint = running(server.folder)
    assert endpoint
    headers = {"Authorization": f"Bearer {read_token(server.folder, 'management')}"}
    described = httpx.get(f"{endpoint.management_url}/models/table", headers=headers).json()
    return {worker["pid"] for model in described for worker in model["workers"]}


# --- the command line


def project(folder: Path, server: TorchServe) -> None:
    """What the command line needs of a project whose server this is."""
    (folder / ".fairlead").mkdir()
    (folder / ".fairlead/server").symlink_to(server.folder)
    (folder / "params.yaml").write_text("name: table\n")


def test_predict_and_explain_ask_the_live_server(
    server: TorchServe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path, server)
    (tmp_path / "row.json").write_bytes(ROW)
    (tmp_path / "rows.csv").write_bytes(CSV)
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == code, done.output
        return done.output

    for way in ([], ["--grpc"]):
        lines = run("predict", *way, "rows.csv", "row.json").splitlines()
        assert [line.split("  (")[0] for line in lines] == [
            "rows.csv row 0: yes",
            "rows.csv row 1: no",
            "row.json: yes",
        ]
    said = run("explain", "row.json").splitlines()
    assert said[0].startswith("row.json: yes  0.96")
    assert said[1].split() == ["+0.9428", COLUMN]
    assert (tmp_path / "row-explained.png").stat().st_size > 5000
    assert "income" in run("explain", "row.json", "--target", "no", "--out", "no.svg")
    assert (tmp_path / "no.svg").exists()
    assert "expected one of no, yes" in run("explain", "row.json", "--target", "maybe", code=1)
    assert "one input is explained at a time" in run("explain", "rows.csv", code=1)
    assert "no.json: No such file" in run("explain", "no.json", code=1)
    assert "is not supported" in run("explain", "row.json", "--out", "x.doc", code=1)
    assert "nowhere/x.png: No such file" in run("explain", "row.json", "--out", "nowhere/x.png", code=1)


# --- the Open Inference Protocol over gRPC, before the same server


def test_tritonclient_is_answered_over_grpc(server: TorchServe) -> None:
    front = serve(server.folder, 0, server.settings.max_request_bytes)
    client = over_grpc.InferenceServerClient(f"127.0.0.1:{front.port}")
    token = {"authorization": f"Bearer {read_token(server.folder)}"}
    try:
        assert client.is_server_live()
        assert client.is_server_ready(headers=token)
        assert client.is_model_ready("table", headers=token)
        assert client.is_model_ready("table", "1234abcd", headers=token)
        assert client.get_server_metadata().name == "fairlead"
        told = client.get_model_metadata("table", headers=token, as_json=True)
        assert told["inputs"] == [{"name": "row", "datatype": "FP32", "shape": ["-1", "4"]}]
        assert [each["name"] for each in told["outputs"]] == ["label", "probabilities"]
        forms = {"FP32": TENSOR, "BYTES": np.array([ROW, b"30,0.1,true,red"], object)}
        for datatype, values in forms.items():
            given = over_grpc.InferInput("row", list(values.shape), datatype)
            given.set_data_from_numpy(values)
            for version in ("", "1234abcd"):
                found = client.infer("table", [given], version, request_id="mine", headers=token)
                assert found.as_numpy("label").tolist() == [b"yes", b"no"]
                assert found.as_numpy("probabilities")[0, 1] == pytest.approx(0.9608, abs=1e-4)
                assert found.get_response().id == "mine"
                assert found.get_response().parameters["model_version"].string_param == "1234abcd"
        wished = [over_grpc.InferRequestedOutput("probabilities")]
        only = client.infer("table", [given], outputs=wished, headers=token)
        assert only.as_numpy("label") is None
        refusals: dict[str, tuple[Any, ...]] = {
            "INVALID_ARGUMENT.*row 0: missing columns": ("table", [bodies(b"{}")], "", token),
            "NOT_FOUND.*Model not found": ("nothing", [given], "", token),
            "NOT_FOUND.*Model version: 9": ("table", [given], "9", token),
            "PERMISSION_DENIED.*Token": ("table", [given], "", {}),
            "RESOURCE_EXHAUSTED": ("table", [bodies(b"x" * 2**23)], "", token),
        }
        for reason, (name, inputs, version, headers) in refusals.items():
            with pytest.raises(InferenceServerException, match=reason):
                client.infer(name, inputs, version, headers=headers)
        with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*'nothing' is not served"):
            client.get_model_metadata("nothing", headers=token)
        for call in (client.get_model_metadata, client.is_model_ready):
            with pytest.raises(InferenceServerException, match=r"PERMISSION_DENIED"):
                call("table", headers={"authorization": "Bearer wrong"})
        with pytest.raises(OSError, match=f"port {front.port} cannot be listened on"):
            serve(server.folder, front.port, 1000)
    finally:
        client.close()
        front.stop(None).wait()


def bodies(*items: bytes) -> over_grpc.InferInput:
    given = over_grpc.InferInput("row", [len(items)], "BYTES")
    given.set_data_from_numpy(np.array(items, object))
    return given


def test_plain_contents_are_taken_too_and_a_server_that_is_down_is_told(
    server: TorchServe, tmp_path: Path
) -> None:
    front = serve(server.folder, 0, server.settings.max_request_bytes)
    alone = serve(tmp_path, 0, 1000)
    asked = triton.ModelInferRequest(model_name="table")
    asked.inputs.add(name="row", datatype="FP32", shape=[2, 4]).contents.fp32_contents.extend(TENSOR.ravel())
    try:
        with grpc.insecure_channel(f"127.0.0.1:{front.port}") as opened:
            method = "/inference.GRPCInferenceService/ModelInfer"
            found = called(server, opened, method, asked, triton.ModelInferResponse)
            assert found.raw_output_contents[0] == b"\x03\0\0\0yes\x02\0\0\0no"
            for wrong in ({"raw_input_contents": [b"", b""]}, {"model_name": "../table"}, {"model_name": ""}):
                odd = triton.ModelInferRequest(**{"model_name": "table", **wrong}, inputs=asked.inputs)
                with pytest.raises(grpc.RpcError) as refused:
                    called(server, opened, method, odd, triton.ModelInferResponse)
                assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        client = over_grpc.InferenceServerClient(f"127.0.0.1:{alone.port}")
        assert client.is_server_live()
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*no server was started"):
            client.infer("table", [bodies(ROW)])
        client.close()
    finally:
        front.stop(None).wait()
        alone.stop(None).wait()


def test_the_command_speaks_the_protocol_before_the_server(server: TorchServe, tmp_path: Path) -> None:
    project(tmp_path, server)
    command = [sys.executable, "-m", "pipeline.cli", "serve", "grpc", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as front:
        assert front.stdout
        found = re.search(r"gRPC at (127\.0\.0\.1:\d+), before http", front.stdout.readline())
        try:
            assert found
            with over_grpc.InferenceServerClient(found[1]) as client:
                token = {"authorization": f"Bearer {read_token(server.folder)}"}
                assert client.infer("table", [bodies(ROW)], headers=token).as_numpy("label").tolist() == [
                    b"yes"
                ]
        finally:
            front.terminate()


# --- the second server


def test_tritonclient_gets_the_whole_protocol_of_the_second_server(
    server: TorchServe, tmp_path: Path
) -> None:
    """Over HTTP of the server itself, over gRPC of the same front."""
    with OnnxServer(server.archive, settings_of(), tmp_path / "state") as second:
        endpoint = second.start(ROW, "application/json")
        token = {"authorization": f"Bearer {read_token(second.folder)}"}
        client = InferenceServerClient(endpoint.url.removeprefix("http://"))
        assert client.is_server_live(headers=dict(token))
        assert client.is_server_ready(headers=dict(token))
        assert client.is_model_ready("table", headers=dict(token))
        told = client.get_model_metadata("table", "1234abcd", headers=dict(token))
        assert told["inputs"] == [{"name": "row", "datatype": "FP32", "shape": [-1, 4]}]
        given = InferInput("row", [2, 4], "FP32")
        given.set_data_from_numpy(TENSOR)
        for version in ("", "1234abcd"):
            found = client.infer("table", [given], version, headers=dict(token))
            assert found.as_numpy("label").tolist() == [b"yes", b"no"]
        client.close()
        front = serve(second.folder, 0, server.settings.max_request_bytes)
        try:
            with over_grpc.InferenceServerClient(f"127.0.0.1:{front.port}") as asking:
                assert asking.is_server_ready(headers=token)
                assert asking.is_model_ready("table", headers=token)
                assert asking.get_model_metadata("table", headers=token).platform == "onnxruntime_onnx"
                for version in ("", "1234abcd"):
                    found = asking.infer("table", [bodies(ROW)], version, headers=token)
                    assert found.as_numpy("label").tolist() == [b"yes"]
                with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*version: 9"):
                    asking.infer("table", [bodies(ROW)], "9", headers=token)
        finally:
            front.stop(None).wait()
        with Client.local(second.folder) as plain:  # which waits until captum is loaded
            assert len(plain.predict(CSV)["predictions"]) == 2
            attributions = plain.explain(ROW)["attributions"]
            assert max(attributions, key=attributions.get) == COLUMN
