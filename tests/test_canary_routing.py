"""Routing inside a champion's worker, with a challenger's worker behind a real socket."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.inputs.spec import write_json
from serving.worker.hop import Breaker, Fault
from serving.worker.messages import Reply, Request
from serving.worker.route import MARK, ROUTES, Route, read_route
from serving.worker.worker import Worker
from tests.live import PNG, VERSION

OTHER = "77aa00bb11cc"
SALT = "5a17"
TOKEN = "secret"


@dataclass
class Peer:
    """The challenger's side: its worker behind HTTP, or what `misbehave` does instead."""

    worker: Worker
    state: Path
    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    misbehave: Callable[[BaseHTTPRequestHandler], Reply | None] | None = None
    refused: Callable[[], None] = lambda: None


def handler_of(peer: Peer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers["content-length"]))
            peer.asked.append({**headers, "path": self.path, "port": str(self.client_address[1])})
            if headers["authorization"] != f"Bearer {TOKEN}":
                peer.refused()
                reply = Reply(400, b'{"message": "Token Authorization failed"}')
            elif peer.misbehave:
                told = peer.misbehave(self)
                if told is None:
                    self.close_connection = True
                    return
                reply = told
            else:
                reply = peer.worker.answer([Request(headers["x-request-id"], body, headers)])[0]
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture(scope="module")
def challenger_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("challenger") / "bundle"
    shutil.copytree(bundle, folder)
    write_json(folder / "bundle.json", {"version": OTHER})
    return folder


@pytest.fixture
def peer(challenger_bundle: Path, tmp_path: Path) -> Iterator[Peer]:
    write_json(tmp_path / "key_file.json", {"inference": {"key": TOKEN}})
    (tmp_path / "canary" / SALT).mkdir(parents=True)
    found = Peer(Worker(challenger_bundle, state=tmp_path, name="digits"), tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(found))
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def champion(bundle: Path, peer: Peer) -> Worker:
    return Worker(bundle, state=peer.state, name="digits")


def route_to(peer: Peer, **given: object) -> Route:
    """Write a route, as the process that watches does, and give it."""
    usual = {
        "mode": "canary", "share": 0.3, "until": time.time() + 60, "url": peer.url,
        "timeout_ms": 20_000,  # on a busy machine an answer may be late
    }  # fmt: skip
    route = Route("digits", VERSION, OTHER, salt=SALT, **usual | given)  # type: ignore[arg-type]
    write_json(peer.state / ROUTES, asdict(route))
    return route


def ask(worker: Worker, ids: range | list[str], **headers: str) -> dict[str, tuple[str, str]]:
    """Answers to batches of eight: the request's id, to the id and version that its answer carries."""
    names = [f"request-{each}" for each in ids]
    found = {}
    for at in range(0, len(names), 8):
        batch = [Request(name, PNG, {"content-type": "image/png", **headers}) for name in names[at : at + 8]]
        for request, reply in zip(batch, worker.answer(batch), strict=True):
            assert reply.status == 200, reply.body
            content = json.loads(reply.body)
            found[request.id] = (content["request_id"], content["model_version"])
    assert all(name == own for name, (own, _) in found.items())
    return {name: version for name, (_, version) in found.items()}  # type: ignore[misc]


def observed(peer: Peer) -> list[dict]:
    file = peer.state / "canary" / SALT / f"{os.getpid()}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def outcomes(peer: Peer, arm: str) -> dict[str, str]:
    return {name: what for line in observed(peer) if line["arm"] == arm for name, what, _ in line["requests"]}


def test_the_share_goes_to_the_challenger_and_an_id_keeps_its_arm(peer: Peer, champion: Worker) -> None:
    route = route_to(peer)
    versions = ask(champion, range(400))
    routed = {name for name, version in versions.items() if version == OTHER}
    assert routed == {name for name in versions if route.place(name) < 0.3}
    assert 80 <= len(routed) <= 160
    assert versions == ask(champion, range(400)), "the same id, the same arm"
    control = outcomes(peer, "control")
    assert set(outcomes(peer, "challenger")) == routed
    assert set(control) == {name for name in versions if 0.3 <= route.place(name) < 0.6}
    assert set(control.values()) == {"ok"}
    asked = peer.asked[0]
    assert asked["path"] == f"/predictions/digits/{OTHER}"
    assert asked["content-type"] == "image/png"
    assert len({each["port"] for each in peer.asked}) <= 8, "connections are kept"
    assert all(line["step"][1] >= 1 and line["step"][2] > 0 for line in observed(peer)), "passes are timed"


def test_another_salt_draws_other_requests_and_every_share_is_met() -> None:
    route = Route("m", "a", "b", "canary", 0.1, SALT, 0, "http://127.0.0.1:1")
    other = replace(route, salt="other")
    places = [(route.place(f"{each}"), other.place(f"{each}")) for each in range(20_000)]
    for share in (0.01, 0.1, 0.5):
        for at in (0, 1):
            found = sum(place[at] < share for place in places) / len(places)
            assert found == pytest.approx(share, abs=4 * (share / len(places)) ** 0.5)
    both = sum(one < 0.5 and two < 0.5 for one, two in places) / len(places)
    assert both == pytest.approx(0.25, abs=0.02), "trials draw independently of each other"


@pytest.mark.parametrize(
    "change",
    [
        {"until": time.time() - 1},
        {"share": 0.0},
        {"mode": "other"},
        {"url": "http://example.org:80"},
        {"share": "x"},
    ],
    ids=["expired", "no share", "unknown mode", "not loopback", "damaged"],
)
def test_what_is_no_route_in_force_is_not_followed(peer: Peer, champion: Worker, change: dict) -> None:
    fields = asdict(route_to(peer)) | change
    write_json(peer.state / ROUTES, fields)
    assert set(ask(champion, range(40)).values()) == {VERSION}
    assert not peer.asked


def test_only_the_champion_named_routes_and_marked_requests_are_left_alone(
    peer: Peer, champion: Worker
) -> None:
    route = route_to(peer, share=0.9)
    assert set(ask(peer.worker, range(40)).values()) == {OTHER}
    assert set(ask(champion, range(40), **{MARK: "off"}).values()) == {VERSION}
    write_json(peer.state / ROUTES, asdict(replace(route, champion="another")))
    assert set(ask(champion, range(40)).values()) == {VERSION}
    assert not peer.asked
    write_json(peer.state / ROUTES, asdict(route))
    assert OTHER in ask(champion, range(40)).values()
    (peer.state / ROUTES).unlink()
    assert set(ask(champion, range(40)).values()) == {VERSION}


def hang(_: BaseHTTPRequestHandler) -> Reply | None:
    time.sleep(3)
    return None


FAULTS: dict[str, tuple[Callable[[BaseHTTPRequestHandler], Reply | None], str]] = {
    "hangs": (hang, "failed: timeout"),
    "hangs up": (lambda _: None, "failed: RemoteDisconnected"),
    "fails": (lambda _: Reply(503, b'{"code": 503}'), "failed: status 503"),
    "refuses": (lambda _: Reply(400, b'{"error": "no"}'), "failed: status 400"),
    "prattles": (lambda _: Reply(200, b"<html>"), "failed: no proper answer"),
    "has no number": (
        lambda _: Reply(200, b'{"model_version": "%s", "values": {"y": NaN}}' % OTHER.encode()),
        "failed: no proper answer",
    ),
    "is another": (lambda _: Reply(200, b'{"model_version": "x"}'), "failed: answered by x"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_client_sees_a_challenger_that(peer: Peer, champion: Worker, fault: str) -> None:
    peer.misbehave, outcome = FAULTS[fault]
    route = route_to(peer, share=0.5, timeout_ms=60 if fault == "hangs" else 20_000)
    versions = ask(champion, range(160))
    assert set(versions.values()) == {VERSION}
    seen = outcomes(peer, "challenger")
    assert set(seen.values()) == {outcome}
    assert len(seen) < 40, "after three batches in a row, nothing is sent for a while"
    assert not champion.router._breaker.closed(route.salt)
    peer.misbehave = None
    champion.router._breaker._until = 0
    assert OTHER in ask(champion, range(160, 200)).values(), "and it is tried again"


def test_no_client_sees_a_challenger_that_is_gone(peer: Peer, champion: Worker) -> None:
    route_to(peer, url="http://127.0.0.1:9", share=0.5)
    assert set(ask(champion, range(40)).values()) == {VERSION}
    assert set(outcomes(peer, "challenger").values()) == {"failed: ConnectionRefusedError"}


def test_what_the_champion_refuses_too_is_nobodys_fault(peer: Peer, champion: Worker) -> None:
    route_to(peer, share=0.5)
    replies = champion.answer([Request(f"{at}", b"rubbish") for at in range(8)])
    assert {reply.status for reply in replies} == {400}
    assert {json.loads(reply.body)["request_id"] for reply in replies} == {f"{at}" for at in range(8)}
    assert set(outcomes(peer, "challenger").values()) == {"refused"}
    assert set(outcomes(peer, "control").values()) == {"refused"}


def test_a_rotated_token_is_read_anew_and_costs_the_challenger_nothing(peer: Peer, champion: Worker) -> None:
    route_to(peer, share=1.0)
    keys = peer.state / "key_file.json"
    write_json(keys, {"inference": {"key": "an old one"}})
    peer.refused = lambda: write_json(keys, {"inference": {"key": TOKEN}})
    assert ask(champion, range(1)) == {"request-0": VERSION}
    assert outcomes(peer, "challenger") == {"request-0": "lost: status 400"}
    assert set(ask(champion, range(1, 9)).values()) == {OTHER}
    write_json(keys, {"inference": {"key": "a wrong one"}})
    peer.refused = lambda: None
    assert ask(champion, range(9, 10)) == {"request-9": VERSION}
    assert outcomes(peer, "challenger")["request-9"] == "failed: status 400", (
        "a wrong token that stays is a fault"
    )


def test_a_shadow_answers_nobody_and_sees_the_same(peer: Peer, champion: Worker) -> None:
    route_to(peer, mode="shadow", share=0.5)
    versions = ask(champion, range(80))
    assert set(versions.values()) == {VERSION}
    deadline = time.monotonic() + 20
    while len(outcomes(peer, "challenger")) < len(outcomes(peer, "control")) and time.monotonic() < deadline:
        time.sleep(0.02)
    pairs = {"control": {}, "challenger": {}}  # type: dict[str, dict]
    for line in observed(peer):
        pairs[line["arm"]] |= {name: said for name, _, said in line["requests"]}
    assert 20 <= len(pairs["control"]) <= 60
    assert pairs["control"] == pairs["challenger"], "the same network says the same"
    assert set(pairs["control"].values()) <= set("abcdefghij")


def test_a_shadow_that_hangs_costs_nobody_an_answer(peer: Peer, champion: Worker) -> None:
    over = threading.Event()
    emergency = threading.Timer(60, over.set)  # else a champion that waits for its shadow waits for ever
    emergency.start()

    def wait(_: BaseHTTPRequestHandler) -> Reply:
        over.wait()
        return Reply(503, b"{}")

    peer.misbehave = wait
    route_to(peer, mode="shadow", share=1.0, timeout_ms=100_000)
    ask(champion, range(1200))
    assert not over.is_set()
    assert champion.router._shadow._dropped >= (150 - 64 - 2) * 8, "what a full queue cannot take is dropped"
    over.set()
    emergency.cancel()


def test_the_breaker_waits_longer_each_time() -> None:
    breaker = Breaker(failures=2, first=100, longest=300)
    for expected in (0, 100, 200, 300, 300):
        breaker.heard("", [Fault("x")])
        assert breaker._until - time.monotonic() == pytest.approx(expected, abs=5) or not expected
    assert not breaker.closed("")
    assert breaker.closed("another trial")


def test_a_full_disk_costs_no_answer(peer: Peer, champion: Worker) -> None:
    route_to(peer)
    folder = peer.state / "canary" / SALT
    (folder / f"{os.getpid()}.jsonl").mkdir()  # cannot be opened for writing
    assert OTHER in ask(champion, range(40)).values()


def test_a_route_says_what_is_wrong_with_it() -> None:
    for text, reason in (("{", "Expecting"), ("[1]", "argument"), ('{"model": "x"}', "missing")):
        with pytest.raises(ValueError, match=reason):
            read_route(text)
