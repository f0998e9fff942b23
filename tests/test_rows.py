"""Many rows in one request, in every form, and what is refused."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.inputs.image import encode_png
from serving.inputs.spec import TableField, TableInput
from serving.predictor import Predictor
from serving.worker import rows
from serving.worker.messages import MOST_BYTES, MOST_ROWS, Reply, Request
from serving.worker.worker import Worker
from tests.planted import GRAPHS, picture, planted, spec_of

BRIGHT, DARK = encode_png(picture()), encode_png(picture(bright=False))
HIGH, LOW = [[0, 1]] * 12, [[0, 0]] * 12


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Worker]:
    folder = tmp_path_factory.mktemp("planted")
    return {modality: Worker(planted(folder / modality, modality)) for modality in GRAPHS}


def ask(worker: Worker, body: bytes) -> Reply:
    return worker.answer([Request("r1", body)])[0]


def instances(*items: Any) -> bytes:
    return json.dumps({"instances": items}).encode()


def coded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


FORMS = {
    "image": [
        instances({"image": coded(BRIGHT)}, {"image": coded(DARK)}),
        instances({"b64": coded(BRIGHT)}, coded(DARK)),
        instances({"pixels": picture()[0].tolist()}, picture(bright=False)[0].tolist()),
    ],
    "table": [
        instances({"age": 1, "income": 0.9, "member": None, "colour": "red"}, [1, 0.1, True, None]),
        b"1,0.9,,red\n1,0.1,true,\n",
        b"1,0.9,,red\r\n1,0.1,true,",
        b"colour,income,member,age\nred,0.9,,1\n\n,0.1,true,1\n\n",
        b"\xef\xbb\xbfage, income, member, colour\n1,0.9,,red\n1,0.1,true,\n",
    ],
    "series": [instances({"series": HIGH}, {"series": LOW}), instances(HIGH, LOW)],
    "text": [instances({"text": "the terrible food"}, {"text": "good"}), instances("terrible", "food")],
}


@pytest.mark.parametrize("modality", GRAPHS)
def test_every_form_gives_the_answers_of_lone_requests_in_order(
    workers: dict[str, Worker], modality: str
) -> None:
    for body in FORMS[modality]:
        told = json.loads(ask(workers[modality], body).body)
        assert list(told) == ["predictions", "model_version", "request_id"], told
        assert [each["label"] for each in told["predictions"]] == ["yes", "no"]
        assert list(told["predictions"][0]) == ["label", "probabilities"]


def test_one_instance_is_a_list_and_one_row_of_csv_is_not(workers: dict[str, Worker]) -> None:
    told = json.loads(ask(workers["table"], instances([1, 0.9, True, "red"])).body)
    assert len(told["predictions"]) == 1
    for body in (b"1,0.9,true,red", b"age,income,member,colour\n1,0.9,true,red\n", b'1,0.9,true,"r\ned"'):
        assert json.loads(ask(workers["table"], body).body)["label"] == "yes"


BAD = {
    "two wrong rows": (
        b"1,x,true,red\n1,1,true,red\n1,1,maybe,red",
        ["row 0: column 'income'", "row 2: column 'member'"],
    ),
    "many wrong rows": (b"x,1,true,red\n" * 40, ["row 4: column 'age'", "and 35 rows more"]),
    "a short row": (b"1,1,true,red\n1,1,true", ["row 1 has 3 cells; expected 4: age, income"]),
    "a wrong header": (b"age,income,member,color\n1,1,true,red\n1,1,true,red", ["unknown columns ['color']"]),
    "a list for one value": (instances([1, [2], True, "red"]), ["row 0: column 'income' holds a list"]),
    "a short list": (instances([1, 1, True, "red"], [1]), ["row 1 has 1 cells"]),
    "a number": (instances([1, 1, True, "red"], 7), ["row 1: expected an object or a list; found int"]),
    "no rows": (instances(), ["must hold 1 to 1024 rows; found 0"]),
    "no list": (b'{"instances": 3}', ["'instances' must be a list"]),
    "too many": (b"1,1,true,red\n" * (MOST_ROWS + 1), ["1 to 1024 rows; found 1025"]),
    "more than instances": (b'{"instances": [], "x": 1}', ["unknown columns ['instances', 'x']"]),
    "a cell without end": (b'"' + b"x" * 200_000 + b"\n\n", ["not valid CSV"]),
    "not UTF-8": (b"1,1,true,red\n\xff", ["not UTF-8"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_row_is_named_and_spoils_no_other_request(workers: dict[str, Worker], case: str) -> None:
    body, reasons = BAD[case]
    bad, good = workers["table"].answer([Request("bad", body), Request("good", b"1,0.9,true,red")])
    assert bad.status == 400
    told = json.loads(bad.body)
    for reason in reasons:
        assert reason in told["error"]
    assert told["request_id"] == "bad"
    assert json.loads(good.body)["label"] == "yes"


def test_odd_csv_that_is_one_row_is_refused_with_a_reason(workers: dict[str, Worker]) -> None:
    """Python's csv module raises what is no ValueError, which would have failed the whole batch."""
    for modality in ("table", "series"):
        for body in (b'"' + b"x" * 200_000, b'a"b\r,"'):
            reply = ask(workers[modality], body)
            assert reply.status == 400, body[:20]


def test_a_column_of_the_name_instances_stays_a_column() -> None:
    table = TableInput(fields=(TableField(name="instances", kind="number"),))
    spec = spec_of("table").model_copy(update={"table": table})
    assert rows.rows_in(b'{"instances": 3}', spec) is None


def test_rows_beyond_the_time_are_refused_and_lone_requests_are_not(
    workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers["table"].predictor, "seconds", -1.0)
    many, alone = workers["table"].answer(
        [Request("many", b"1,0.9,true,red\n" * 100), Request("alone", b"1,0.9,true,red")]
    )
    assert (many.status, alone.status) == (413, 200)
    assert "ask for fewer at once" in json.loads(many.body)["error"]


def test_an_answer_that_torchserve_would_not_send_is_refused(
    workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.worker.messages.MOST_BYTES", 1000)
    reply = ask(workers["table"], b"1,0.9,true,red\n" * 100)
    assert reply.status == 400
    assert "ask for fewer rows" in json.loads(reply.body)["error"]
    assert MOST_BYTES < 6_553_500


def test_many_rows_are_as_lone_ones_to_the_bit(workers: dict[str, Worker], tmp_path: Path) -> None:
    draw = np.random.default_rng(3).random(300)
    body = "\n".join(f"1,{value},true,red" for value in draw).encode()
    told = json.loads(ask(workers["table"], body).body)["predictions"]
    predictor = Predictor(planted(tmp_path, "table"))
    for value, each in zip(draw[::37], told[::37], strict=True):
        (alone,) = predictor.answer([f"1,{value},true,red".encode()])
        assert isinstance(alone, dict)
        assert each["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-6)


def test_lone_requests_that_others_left_no_time_for_are_told_to_come_again(
    workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a few large images may take all of it; a worker that is silent for too long would be ended."""
    predictor = workers["table"].predictor
    decode = predictor.decode
    monkeypatch.setattr(predictor, "seconds", 0.001)
    monkeypatch.setattr(predictor, "decode", lambda body: time.sleep(0.01) or decode(body))
    replies = workers["table"].answer([Request(str(at), b"1,0.9,true,red") for at in range(3)])
    assert [reply.status for reply in replies] == [200, 503, 503]
    assert b"ask again" in replies[1].body


def test_an_answer_that_is_no_number_is_none(
    workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON has no NaN, and a label of it would be a lie."""
    predictor = workers["table"].predictor
    outputs = predictor.outputs

    def second_is_nan(rows: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(rows))[:, None] == 1, np.nan, outputs(rows))

    monkeypatch.setattr(predictor, "outputs", second_is_nan)
    replies = workers["table"].answer([Request(str(at), b"1,0.9,true,red") for at in range(3)])
    assert [reply.status for reply in replies] == [200, 400, 200]
    assert b"no finite answer" in replies[1].body


def test_every_request_of_a_batch_gets_its_own_rows(workers: dict[str, Worker]) -> None:
    yes, no = "1,0.9,true,red\n", "1,0.1,true,red\n"
    bodies = [yes + no, yes, no + no + yes, "x,1,,\n1,1,,", no, no + yes]
    asked = [Request(str(at), body.encode()) for at, body in enumerate(bodies)]
    labels: list[Any] = []
    for at, reply in enumerate(workers["table"].answer(asked)):
        told = json.loads(reply.body)
        assert told["request_id"] == str(at)
        found = told.get("predictions", [told])
        labels.append([each.get("label") for each in found])
    assert labels == [["yes", "no"], ["yes"], ["no", "no", "yes"], [None], ["no"], ["no", "yes"]]
