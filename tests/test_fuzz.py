"""Bad input to both live servers: always a 4xx that says why, or a right answer; no 5xx, no dead worker."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from serving.archive import build_archive
from serving.endpoint import read_token
from serving.inputs.image import encode_png
from serving.inputs.spec import DataSpec, write_json
from serving.openapi import document
from serving.predictor import Predictor
from serving.process import running
from serving.servers import SERVERS
from serving.state import Models, write_models
from serving.torchserve import TorchServe
from tests import hostile
from tests.bundles import VERSION, write_bundle
from tests.conftest import spec_of
from tests.live import settings_of
from tests.modalities import series_spec, table_spec, text_spec
from tests.test_openapi import TOKENS, good

pytestmark = pytest.mark.slow
JSON = "application/json"
SLOWEST = 20.0  # seconds for one answer, on a busy machine
SPECS: dict[str, DataSpec] = {
    "image": spec_of((1, 6, 5), "ab"),
    "table": table_spec("ab"),
    "series": series_spec((), "xy"),
    "text": text_spec("ab").model_copy(update={"columns": (TOKENS, text_spec("ab").target)}),
}
CSV = b'kind,"size, m",old,weight,since,colour\na,1,true,2.5,2024-05-06,red\n'
RAW: dict[str, tuple[bytes, str]] = {
    "image": (hostile.PLAIN, "image/png"), "table": (CSV, "text/csv"),
    "series": (b"left,right\n1,2\n3,\n", "text/csv"), "text": ("naïve ☕".encode(), "text/plain"),
}  # fmt: skip
# A schema cannot say which bytes are a PNG or a CSV row, and decoders read more than it says, such as "7" for 7.
EXCLUDED = [positive_data_acceptance, negative_data_rejection]


class Live:
    """A server with a model of each modality, and its workers."""

    def __init__(self, server: TorchServe, bundles: dict[str, Path]) -> None:
        endpoint = running(server.folder)
        assert endpoint
        self.server, self.bundles, self.url, self.pid = server, bundles, endpoint.url, endpoint.pid
        self.headers = {"Authorization": f"Bearer {read_token(server.folder)}"}
        self.raw = httpx.Client(base_url=self.url, headers=self.headers, trust_env=False, timeout=SLOWEST)
        self.document = json.loads(json.dumps(document({name: {VERSION: SPECS[name]} for name in bundles})))

    def workers(self) -> set[int]:
        return {each.pid for each in psutil.Process(self.pid).children(recursive=True)}

    def ask(self, name: str, body: bytes, kind: str = JSON) -> httpx.Response:
        """The answer to a body, which is right by the document or a refusal with a reason."""
        answer = self.raw.post(f"/predictions/{name}", content=body, headers={"Content-Type": kind})
        self.check(answer, f"{name}-{VERSION}", body)
        return answer

    def check(self, answer: httpx.Response, model: str, body: bytes) -> None:
        assert answer.status_code in (200, 400, 413), (answer.status_code, answer.text[:300], body[:300])
        content = json.loads(
            answer.text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON: {body[:300]!r}")
        )
        part = "Error" if answer.status_code != 200 else f"{model}-answer{'s' * ('predictions' in content)}"
        schema = {"$ref": f"#/components/schemas/{part}", "components": self.document["components"]}
        jsonschema.Draft202012Validator(schema).validate(content)
        assert len(answer.text) < 100_000


@pytest.fixture(scope="module", params=SERVERS)
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """TorchServe, whose shell around the worker is what differs, with two of the four."""
    folder, models, bundles = tmp_path_factory.mktemp("fuzz"), Models(), {}
    for name in SPECS if request.param == "onnx" else ("image", "table"):
        bundles[name] = write_bundle(folder / name / "bundle", SPECS[name], name=name)
        (bundles[name] / "golden").mkdir()
        (bundles[name] / "golden/0").write_bytes(RAW[name][0])
        write_json(
            bundles[name] / "golden/golden.json", {"requests": [{"file": "0", "content_type": RAW[name][1]}]}
        )
        build_archive(bundles[name], folder / name / f"{name}.mar", name)
        models = models.serving(name, VERSION, folder / name / f"{name}.mar")
    (folder / "state").mkdir()
    write_models(folder / "state", models)
    with SERVERS[request.param](None, settings_of(), folder / "state") as server:
        server.start()
        started = Live(server, bundles)
        before = started.workers()
        yield started
        assert started.workers() == before, "no worker was ended"
        for name in bundles:
            assert started.ask(name, *RAW[name]).status_code == 200
    shutil.rmtree(folder)


def named(live: Live, *names: str) -> list[str]:
    return [name for name in (names or SPECS) if name in live.bundles]


def test_mutations_of_good_requests(live: Live) -> None:
    """Bytes of both forms flipped, cut, doubled, put in."""
    for name in named(live):
        told = [
            live.ask(name, body, kind).status_code
            for good_body, kind in (RAW[name], (json.dumps(good(name)).encode(), JSON))
            for body in hostile.mutated(good_body, 1, 60)
        ]
        assert told.count(400) > 10, "most are refused"
        assert told.count(413) == 0


def test_values_of_another_kind_are_refused_by_name(live: Live) -> None:
    for name in named(live):
        refused = 0
        for key, body in hostile.misshapen(good(name)):
            answer = live.ask(name, body)
            if answer.status_code == 400:
                refused += 1
                reason = answer.json()["error"]
                known = (f"'{key}'", "not valid JSON", "step", "series", "text", "surrogate", "image")
                assert any(word in reason for word in known), (reason, body[:200])
                if name == "table" and "not valid JSON" not in reason:
                    assert f"'{key}'" in reason
        assert refused >= 15


def test_objects_that_parsers_differ_on(live: Live) -> None:
    for name in named(live):
        for body in hostile.unshapely(good(name)):
            live.ask(name, body)
        assert "b'{'" not in live.ask(name, b'{"a": 1, "a": 2}').text


@pytest.mark.parametrize("case", hostile.REFUSED)
def test_a_hostile_image_is_refused(live: Live, case: str) -> None:
    body = hostile.REFUSED[case]
    for kind in ("image/png", "image/jpeg"):  # the body itself says what it is, not its type or name
        answer = live.ask("image", body, kind)
        assert answer.status_code == 400, answer.text
        assert "image" in answer.json()["error"] or "JPEG" in answer.json()["error"]
    if len(body) < 1_000_000:
        inside = json.dumps({"image": base64.b64encode(body).decode()}).encode()
        assert live.ask("image", inside).status_code == 400


@pytest.mark.parametrize("case", hostile.ANSWERED)
def test_an_unusual_image_is_answered_as_what_it_shows(live: Live, case: str) -> None:
    body = hostile.ANSWERED[case]
    answer = live.ask("image", body, "image/png").json()
    predictor = Predictor(live.bundles["image"])
    plain = encode_png(predictor.decode(body))
    expected = predictor.answer([plain])[0]
    assert isinstance(expected, dict)
    assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_bombs_take_neither_memory_nor_time(live: Live) -> None:
    """Several at once, and many in one body."""
    most = {pid: psutil.Process(pid).memory_info().rss for pid in live.workers()}
    large = hostile.png((7_000, 7_000), colour=4)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(live.raw.post, "/predictions/image", content=body) for body in [large, PEST] * 2]
        told = [each.result() for each in asked]
    assert [each.status_code for each in told[1::2]] == [400] * 2
    assert {each.status_code for each in told[::2]} <= {200, 503}
    assert all("ask again" in each.json()["error"] for each in told if each.status_code == 503)
    small = base64.b64encode(hostile.png((4_000, 4_000), bits=1)).decode()
    answer = live.ask("image", json.dumps({"instances": [{"b64": small}] * 600}).encode())
    assert answer.status_code == 413
    assert "ask for fewer at once" in answer.json()["error"]
    for pid, before in most.items():
        assert psutil.Process(pid).memory_info().rss - before < 400 * 2**20


PEST = hostile.REFUSED["bomb of 50,000 x 50,000"]


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("name", SPECS)
def test_schemathesis_finds_nothing(live: Live, name: str, mode: GenerationMode) -> None:
    """Bodies from the document, right and wrong ones: what it allows is answered as it says."""
    if name not in live.bundles:
        pytest.skip("asked at the other server")
    schema = schemathesis.openapi.from_dict(live.document)
    schema.config.update(base_url=live.url)
    operation = schema[f"/predictions/{name}"]["POST"]

    @seed(1)
    @settings(
        max_examples=12, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def asks(case: Any) -> None:
        response = case.call(headers=live.headers, timeout=SLOWEST)
        assert response.status_code in (200, 400, 401, 413), response.text  # 401: another token was tried
        own = [ignored_auth] if live.server.kind == "torchserve" else []  # it says 400, where others say 401
        case.validate_response(response, excluded_checks=[*EXCLUDED, *own])
        wanted = mode is GenerationMode.POSITIVE and case.media_type == JSON and "image" not in case.body
        short = name == "series" and "steps" in response.text  # as trailing steps of nothing do not count
        assert response.status_code == 200 or not wanted or short, response.text

    asks()


def test_addresses_and_heads(live: Live) -> None:
    """What no model sees."""
    for method, path in (
        ("GET", "/predictions/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), ("POST", "/predictions/" + "a" * 5_000),
        ("POST", "/predictions/image/%00"), ("POST", "/predictions//"), ("PUT", "/v2/models/image/infer"),
        ("POST", "/v2/models/image/infer"), ("GET", "/%ff%fe"), ("BREW", "/predictions/image/1"),
    ):  # fmt: skip
        answer = live.raw.request(method, path, content=b"{}")
        assert 400 <= answer.status_code < 500, (method, path, answer.text)
    for head in (
        {"X-Request-Id": "a" * 9_000},
        {"Content-Type": "é" * 99},
        {"Content-Type": "multipart/form-data"},
    ):
        encoded = [(key.encode(), value.encode()) for key, value in head.items()]
        answer = live.raw.post("/predictions/image", content=hostile.PLAIN, headers=encoded)
        assert answer.status_code < 500, (head, answer.text)
    assert np.isfinite(live.ask("image", hostile.PLAIN, "image/png").json()["probabilities"]["a"])
