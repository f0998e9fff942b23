"""The Open Inference Protocol, spoken by the public tritonclient to the worker without a server between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from serving.inputs.image import encode_png
from serving.worker import v2
from serving.worker.messages import MOST_ROWS, Reply, Request
from serving.worker.worker import Worker
from tests.planted import GRAPHS, generator, picture, planted, spec_of

ROW = np.array([[30, 0.9, 1, 2], [np.nan, 0.1, 0, 0]], np.float32)
PNG = encode_png(picture())


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Worker]:
    folder = tmp_path_factory.mktemp("planted")
    return {modality: Worker(planted(folder / modality, modality)) for modality in GRAPHS}


def tensor(name: str, values: np.ndarray, binary: bool = True) -> InferInput:
    datatype = "BYTES" if values.dtype == object else v2.datatype_of(values.dtype)
    given = InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values, binary_data=binary)
    return given


def ask(worker: Worker, *inputs: InferInput, **more: Any) -> Reply:
    body, length = InferenceServerClient.generate_request_body(list(inputs), **more)
    headers = {} if length is None else {"inference-header-content-length": str(length)}
    return worker.answer([Request("r1", bytes(body), headers, "infer")])[0]


def result(reply: Reply) -> InferResult:
    assert reply.status == 200, reply.body
    length = reply.headers.get("Inference-Header-Content-Length")
    return InferenceServerClient.parse_response_body(reply.body, header_length=length and int(length))


def objects(*items: bytes) -> np.ndarray:
    out = np.empty(len(items), object)
    out[:] = items
    return out


CANONICAL = {
    "image": np.stack([picture(), picture(bright=False)]),
    "table": ROW,
    "series": np.stack([np.tile(np.float32([0, high]), (12, 1)) for high in (1, 0)]),
    "text": np.array([[2, 3, 4, 5], [2, 3, 4, 0]], np.int32),
}
BODIES = {
    "image": (PNG, json.dumps({"pixels": picture(bright=False)[0].tolist()}).encode()),
    "table": (b"30,0.9,true,green", b'{"age": null, "income": 0.1, "member": false, "colour": null}'),
    "series": (b"0,1\n" * 12, json.dumps({"series": [[0, 0]] * 12}).encode()),
    "text": (b"the food was terrible", b'{"text": "the food was"}'),
}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("modality", GRAPHS)
def test_tensors_and_raw_bodies_get_the_same_answers(
    workers: dict[str, Worker], modality: str, binary: bool
) -> None:
    worker, name = workers[modality], v2.input_name(spec_of(modality))
    outputs = [InferRequestedOutput(each, binary_data=binary) for each in ("probabilities", "label")]
    expected = worker.predictor.answer(BODIES[modality])
    forms = [tensor(name, CANONICAL[modality], binary)]
    if binary or modality != "image":  # JSON holds no bytes
        forms.append(tensor(name, objects(*BODIES[modality]), binary))
    for form in forms:
        found = result(ask(worker, form, outputs=outputs, request_id="mine"))
        assert found.as_numpy("label").tolist() == ([b"yes", b"no"] if binary else ["yes", "no"])
        for row, each in zip(found.as_numpy("probabilities"), expected, strict=True):
            assert isinstance(each, dict)
            assert row.tolist() == pytest.approx(list(each["probabilities"].values()), abs=1e-6)
        told = found.get_response()
        assert (told["model_name"], told["model_version"], told["id"]) == (modality, "1234abcd", "mine")
        assert told["parameters"] == {"model_version": "1234abcd", "request_id": "r1"}


def test_without_wishes_every_output_comes_in_binary(workers: dict[str, Worker]) -> None:
    reply = ask(workers["table"], tensor("row", ROW))
    assert reply.content_type == "application/octet-stream"
    assert result(reply).as_numpy("label").tolist() == [b"yes", b"no"]
    plain = {"inputs": [{"name": "row", "shape": [1, 4], "datatype": "FP32", "data": [[30, 0.9, None, 2]]}]}
    reply = workers["table"].answer([Request("r1", json.dumps(plain).encode(), {}, "infer")])[0]
    told = json.loads(reply.body)
    assert told["id"] == "r1"
    assert [each["data"] for each in told["outputs"] if each["name"] == "label"] == [["yes"]]


def test_base64_is_taken_where_the_tensor_says_so(workers: dict[str, Worker]) -> None:
    import base64

    given = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    body = {"inputs": [given | {"data": [base64.b64encode(PNG).decode()]}]}
    reply = workers["image"].answer([Request("r1", json.dumps(body).encode(), {}, "infer")])[0]
    assert b'"yes"' in reply.body


def bad(**changes: Any) -> bytes:
    given = {"name": "row", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 0, 0], **changes}
    return json.dumps({"inputs": [{key: value for key, value in given.items() if value is not ...}]}).encode()


BAD = {
    "not JSON": (b"{", "not valid JSON"),
    "a list": (b"[1]", "found list"),
    "no inputs": (b"{}", "'inputs' must be a list"),
    "no input": (b'{"inputs": []}', "one input, 'row'"),
    "another name": (bad(name="x"), "no input 'x'; expected 'row'"),
    "no name": (bad(name=...), "'name' must be a string"),
    "another datatype": (bad(datatype="INT32"), "must be FP32 or BYTES; found INT32"),
    "no datatype": (bad(datatype="FLOAT"), "'datatype' must be one of"),
    "another shape": (bad(shape=[2, 2]), "shape [2, 2]; expected [-1, 4]"),
    "no row": (bad(shape=[0, 4], data=[]), "has 0 rows; expected 1 to 1024"),
    "a negative side": (bad(shape=[-1, 4]), "'shape' must be a list of whole numbers"),
    "a huge side": (bad(shape=[2**62, 2**62]), "'shape' must be a list of whole numbers"),
    "too few values": (bad(data=[1, 2, 0]), "holds 3 values"),
    "a string": (bad(data=[1, "2", 0, 0]), "'data' holds '2', which is no FP32"),
    "true": (bad(data=[1, True, 0, 0]), "which is no FP32"),
    "too large": (bad(data=[1, 1e300, 0, 0]), "what FP32 cannot"),
    "infinite": (bad(data=[1, float("inf"), 0, 0]), "row 0: column 'income' is infinite"),
    "an unknown code": (bad(data=[1, 1, 0, 7]), "row 0: column 'colour' is 7.0; expected a code from 0 to 2"),
    "no data": (bad(data=...), "neither 'data' nor the parameter"),
    "a bad body": (bad(datatype="BYTES", shape=[2], data=["1,2,true,red", "1,x,true,red"]), "row 1: column 'income'"),
    "an odd shape of bodies": (bad(datatype="BYTES", shape=[1, 4], data=["a"] * 4), "shape [1]"),
    "too many rows": (bad(shape=[MOST_ROWS + 1, 4], data=[1] * 4 * (MOST_ROWS + 1)), "1 to 1024"),
    "an unknown output": (bad()[:-1] + b', "outputs": [{"name": "y"}]}', "no outputs ['y']"),
    "classes": (
        bad()[:-1] + b', "outputs": [{"name": "label", "parameters": {"classification": 3}}]}',
        "'classification' is not supported",
    ),
    "binary that is not there": (bad(data=..., parameters={"binary_data_size": 16}), "0 bytes are left"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_breaks_the_protocol_gets_400_and_spoils_no_other(workers: dict[str, Worker], case: str) -> None:
    body, reason = BAD[case]
    other = Request("good", bad(), {}, "infer")
    refused, good = workers["table"].answer([Request("bad", body, {}, "infer"), other])
    assert refused.status == 400
    told = json.loads(refused.body)
    assert reason in told["error"]
    assert told["request_id"] == "bad"
    assert good.status == 200


def test_binary_that_is_cut_or_too_long_is_refused(workers: dict[str, Worker]) -> None:
    body, length = InferenceServerClient.generate_request_body([tensor("row", ROW)])
    for raw, size in (
        (bytes(body)[:-1], length),
        (bytes(body) + b"x", length),
        (bytes(body), 10**9),
        (bytes(body), "٣"),
    ):
        headers = {"inference-header-content-length": str(size)}
        reply = workers["table"].answer([Request("r", raw, headers, "infer")])[0]
        assert reply.status == 400, raw
    zipped = {"inference-header-content-length": str(length), "content-encoding": "gzip"}
    reply = workers["table"].answer([Request("r", bytes(body), zipped, "infer")])[0]
    assert "compressed" in json.loads(reply.body)["error"]


def test_tokens_that_the_graph_does_not_know_are_refused_alone(workers: dict[str, Worker]) -> None:
    def body(token: int) -> bytes:
        given = {"name": "tokens", "shape": [1, 2], "datatype": "INT32", "data": [2, token]}
        return json.dumps({"inputs": [given]}).encode()

    replies = workers["text"].answer([Request("r", body(token), {}, "infer") for token in (5, 999, -1, 3)])
    assert [reply.status for reply in replies] == [200, 400, 400, 200]
    assert "cannot take" in json.loads(replies[1].body)["error"]


def test_a_generator_takes_bodies_alone_and_gives_pictures(tmp_path: Path) -> None:
    worker = Worker(generator(tmp_path))
    told = v2.model_metadata(worker.predictor.spec, "grey", ["1"])
    assert told["inputs"] == [{"name": "request", "datatype": "BYTES", "shape": [-1]}]
    found = result(
        ask(worker, tensor("request", objects(b'{"label": "yes", "seed": 5}', b'{"label": "no"}')))
    )
    assert found.as_numpy("label").tolist() == [b"yes", b"no"]
    assert found.as_numpy("seed")[0] == 5
    assert found.as_numpy("image").shape == (2, 1, 28, 28)
    assert (found.as_numpy("image")[0] == 50).all()
    refused = ask(worker, tensor("request", np.zeros((1, 6), np.float32)))
    assert (refused.status, b"must be BYTES" in refused.body) == (400, True)
    for body in (b'{"instances": ["yes", {"label": "no", "seed": 1}]}', b'{"instances": ["maybe"]}'):
        reply = worker.answer([Request("r", body)])[0]
        labels = [each["label"] for each in json.loads(reply.body).get("predictions", [])]
        assert (reply.status, labels) in ((200, ["yes", "no"]), (400, []))
    why = worker.answer([Request("r", b'{"label": "yes"}', {}, "explain")])[0]
    assert (why.status, b"makes images" in why.body) == (400, True)


def test_metadata_say_what_is_taken_and_given() -> None:
    assert v2.server_metadata()["extensions"] == ["binary_tensor_data"]
    told = v2.model_metadata(spec_of("series"), "steps", ["1", "2"])
    assert told["inputs"] == [{"name": "series", "datatype": "FP32", "shape": [-1, -1, 2]}]
    assert told["outputs"] == [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
    ]
    assert v2.model_metadata(spec_of("text"), "t", [])["inputs"][0]["datatype"] == "BYTES"
    assert v2.model_metadata(spec_of("image", "anomaly"), "i", [])["outputs"][0]["name"] == "score"
