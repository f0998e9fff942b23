"""The pieces of `benchmarks/serving`: its load generator, its percentiles, and its check that answers are the same."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import numpy as np
import pytest

from benchmarks.serving import summary
from benchmarks.serving.install import PINS
from benchmarks.serving.live import same
from benchmarks.serving.load import Generator, Load, arrivals, request, status_of
from benchmarks.serving.processes import MARK, cpu_seconds, end, members, spent
from benchmarks.serving.sides import SIDES, missing

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BODY = b"x" * 10


class Server(ThreadingTCPServer):
    """Answers each request with `answer` after `pause` seconds; counts what it got."""

    daemon_threads = True
    allow_reuse_address = True
    answer, pause = GOOD, 0.0
    together: threading.Barrier | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[float] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/predict"


class Handler(BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Server)
        while data := self.request.recv(1 << 16):
            assert data.endswith(BODY)
            self.server.got.append(time.perf_counter())
            time.sleep(self.server.pause)
            if self.server.together:
                self.server.together.wait(timeout=30)
            self.request.sendall(self.server.answer)
            if b"close" in self.server.answer:
                return


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def generator(server: Server, connections: int) -> Generator:
    return Generator(server.url, [request(server.url, BODY, {"Content-Type": "image/png"})], connections)


def test_a_request_as_it_goes_over_the_wire() -> None:
    raw = request("http://127.0.0.1:80/a/b", b"body", {"Content-Type": "image/png"})
    head, body = raw.split(b"\r\n\r\n")
    assert body == b"body"
    assert head.split(b"\r\n") == [
        b"POST /a/b HTTP/1.1", b"Host: 127.0.0.1:80", b"Content-Length: 4", b"Content-Type: image/png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (GOOD, 200),
        (GOOD[:-1], None),
        (GOOD.replace(b"Content-Length", b"content-length"), 200),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nserver: x\r\n\r\n", 503),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Le", None),
    ],
)
def test_an_answer_is_whole_or_not(answer: bytes, status: int | None) -> None:
    assert status_of(answer) == status


def test_every_connection_of_a_closed_loop_asks_again_when_it_was_answered(server: Server) -> None:
    server.pause = 0.02
    load = generator(server, 4).closed(0.3)
    assert load.answered == len(load.latencies) == len(server.got) >= 4
    assert not load.errors
    assert min(load.latencies) >= 0.02
    assert load.answered <= 4 * (load.seconds / 0.02 + 1)


def test_an_open_loop_sends_what_is_due_and_counts_from_when_it_was(server: Server) -> None:
    server.pause = 0.05
    load = generator(server, 1).opened(np.array([0.0, 0.001, 0.002, 0.003]))
    assert load.answered == 4
    # One connection, 50 ms an answer: the fourth waits for three others, and its latency says so.
    assert sorted(load.latencies)[-1] >= 0.19


def test_an_open_loop_does_not_wait_for_answers_where_connections_are_free(server: Server) -> None:
    server.together = threading.Barrier(3)  # none is answered before three are under way
    load = generator(server, 3).opened(np.array([0.0, 0.0, 0.0]))
    assert load.answered == 3
    assert not load.errors


def test_what_is_not_answered_well_is_counted_by_its_reason(server: Server) -> None:
    server.answer = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
    load = generator(server, 2).opened(np.linspace(0, 0.05, 5))
    assert (load.answered, load.errors) == (0, {"status 503": 5})
    server.answer = b"HTTP/1.1 200 close"  # and the end of the connection, before the answer is whole
    load = generator(server, 2).opened(np.linspace(0, 0.05, 5))
    assert (load.answered, load.errors) == (0, {"closed": 5})


def test_arrivals_have_their_rate_and_are_drawn_anew_by_seed() -> None:
    times = arrivals(1000, 10, seed=1)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert times[0] > 0
    assert times[-1] < 10
    assert (np.diff(times) >= 0).all()
    assert np.diff(times).std() == pytest.approx(1e-3, rel=0.1), "as in a Poisson process, not evenly"
    assert (arrivals(1000, 10, seed=1) == times).all()
    assert len(arrivals(1000, 10, seed=2)) != len(times)


def test_answers_that_differ_are_found() -> None:
    expected = np.array([0.25, 0.75], np.float32)
    same({"0": 0.25, "1": 0.75}, expected)
    same({"1": 0.75, "0": 0.2500001}, expected)
    with pytest.raises(ValueError, match="differ by"):
        same({"0": 0.75, "1": 0.25}, expected)
    with pytest.raises(ValueError, match="classes"):
        same({"0": 0.25, "one": 0.75}, expected)


def test_percentiles_of_few_answers_are_not_told() -> None:
    found = summary.percentiles([0.001 * at for at in range(1, 1001)])
    assert found["p50"] == pytest.approx(500.5)
    assert found["p99"] == pytest.approx(990.01)
    assert found["p99.9"] is None, "one answer of a thousand lies above it"


def rounds_of(**rates: list[float]) -> summary.Rounds:
    def each(rate: float) -> dict:
        return {
            "rate": rate, "latencies": [1 / rate] * 100, "errors": {"closed": 1}, "answered": 100, "cpu": 0.5,
            "generator": 0.1,
        }  # fmt: skip

    return {
        side: {load: list(map(each, found)) for load in ("closed 1", "closed 32")}
        for side, found in rates.items()
    }


def test_ratios_are_of_the_rounds_and_targets_are_judged() -> None:
    rounds = rounds_of(
        ours=[300.0, 100.0, 200.0], fastapi=[100.0, 100.0, 100.0], litserve=[100.0, 50.0, 50.0]
    )
    assert summary.ratio(rounds, "fastapi") == 2
    assert summary.ratio(rounds, "bentoml") is None
    told = summary.verdicts(rounds)
    assert told["ours over fastapi, closed 32"] == "2.00 (target: at least 1.5; met)"
    assert told["ours over litserve, closed 32"] == "3.00 (target: at least 4; MISSED)"
    assert told["ours over torchserve, closed 32"] == "not measured"
    assert told["p50 of a lone client, ms above fastapi"].endswith("(target: at most 2; met)")


def test_a_side_that_failed_stands_in_the_table() -> None:
    loads = {load: summary.summed(each) for load, each in rounds_of(ours=[100.0])["ours"].items()}
    assert loads["closed 1"]["errors"] == {"closed": 1}
    side = {"about": "", "start, s": 1.0, "memory, MiB": {"pss": 10.0}, "loads": loads}
    lines = summary.table({"ours": side, "ray": {"about": "", "failed": "not installed"}}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| ours | 100 | 100 | 10.0 / - / - (1 lost) |" in lines[2]
    assert lines[3].startswith("| ray | not installed |")


def test_every_peer_has_its_pins_and_one_that_is_missing_is_told(tmp_path: Path) -> None:
    pins = tomllib.loads(PINS.read_text())
    peers = {side.peer for side in SIDES.values() if side.peer}
    assert peers == set(pins["peers"])
    assert len(peers) >= 6
    assert all("==" in package for packages in pins["peers"].values() for package in packages)
    assert missing(SIDES["fastapi"], tmp_path) == f"not installed in {tmp_path / 'fastapi'}"
    assert missing(SIDES["ours"], tmp_path) is None


def test_a_tree_is_found_by_its_mark_and_ended() -> None:
    idle = "import time; sum(range(10**7)); time.sleep(60)"
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {idle!r}])"
    process = subprocess.Popen([sys.executable, "-c", child], env={MARK: "mine"}, start_new_session=True)
    process.wait()  # the grandchild lives on, and only its mark tells whose it is
    found = members(process.pid, "mine")
    assert len(found) == 1
    before = cpu_seconds(found)
    assert spent({}, before) == sum(before.values())
    assert not members(process.pid, "another")
    end(lambda: members(process.pid, "mine"))
    assert not members(process.pid, "mine")


def test_a_load_counts_a_reason_once_each() -> None:
    load = Load()
    load.fail("closed")
    load.fail("closed")
    assert load.errors == {"closed": 2}
