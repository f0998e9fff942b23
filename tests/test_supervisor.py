"""The process that keeps a TorchServe up: it starts it again, gives up in the end, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving import health, supervisor
from serving.client import Client
from serving.endpoint import KEY_FILE, STATE_FILE, SUPERVISOR_FILE, read_endpoint
from serving.process import running, stop
from serving.settings import ServerError
from serving.state import of_archive, write_models
from serving.supervisor import Plan, supervise
from serving.worker.messages import PROBE, Request
from serving.worker.route import Route
from tests.live import PNG, closed, mentioning, processes_of, same_answer, settings_of, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def state(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder whose server is kept up."""
    folder = tmp_path_factory.mktemp("state")
    write_models(folder, of_archive(stored))
    said: list[str] = []
    try:
        endpoint = supervise(folder, Plan(settings=settings_of(response_timeout=2)), said.append)
        assert endpoint == running(folder)
        assert said[0] == "starting Java"
        assert said[-1] == "the server answers"
        yield folder
    finally:
        stop(folder)


def test_workers_that_answer_nothing_are_found(state: Path, stored: Path) -> None:
    """The look itself: a golden request where nobody else asks, and what TorchServe says of its workers."""
    endpoint = read_endpoint(state)
    looking = health.Health(state, settings_of(response_timeout=2))
    assert looking.look() is None
    assert looking._answers(endpoint, "digits", of_archive(stored).models["digits"])
    write_models(state, of_archive(stored).serving("nothing", "1", stored))
    try:
        assert looking.look() is None, "a moment without an answer is no reason"
        assert list(looking._failing) == ["nothing"]
        looking._patience = -1
        assert "nothing has had no worker" in str(looking.look())
    finally:
        write_models(state, of_archive(stored))
    assert looking.look() is None


def test_our_own_requests_are_in_no_statistics_of_a_canary() -> None:
    route = Route("m", "1", "2", "canary", 1.0, "salt", 9e9, "http://127.0.0.1:1")
    assert route.arm(Request("anyone", b"x")) == "challenger"
    assert route.arm(Request(PROBE, b"x")) == "rest"


def test_a_worker_given_up_is_replaced(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen as lost for longer than a worker may take to load, it is one too few in TorchServe's eyes."""
    looking = health.Health(state, settings_of(response_timeout=2))
    looking._patience = -1
    found = looking._registered("digits", read_endpoint(state).version)
    assert found
    assert found.ready == 1
    short = found.model_copy(update={"min_workers": 2})
    monkeypatch.setattr(looking, "_registered", lambda *_: short)
    looking._complete("digits", found.version)
    looking._complete("digits", found.version)
    monkeypatch.undo()
    until(lambda: (looking._registered("digits", found.version) or found).ready == 2)


def test_a_second_supervisor_is_refused(state: Path, stored: Path) -> None:
    live = running(state)
    with pytest.raises(ServerError, match="another supervisor"):
        supervise(state, Plan(settings=settings_of()))
    assert running(state) == live


def test_a_killed_supervisor_takes_java_with_it(state: Path) -> None:
    """On Linux only; elsewhere `stop` ends what is left."""
    endpoint = read_endpoint(state)
    processes = processes_of(endpoint)
    keeper = psutil.Process(json.loads((state / SUPERVISOR_FILE).read_text())["pid"])
    keeper.kill()
    keeper.wait()
    if sys.platform == "linux":
        _, alive = psutil.wait_procs(processes, 15)
        assert not alive
        assert running(state) is None
    stop(state)
    assert not [each for each in [keeper, *processes] if each.is_running()]
    for name in (KEY_FILE, STATE_FILE, SUPERVISOR_FILE):
        assert not (state / name).exists()
    assert not endpoint.scratch.exists()
    assert closed(endpoint.url)
    assert not mentioning(state)


def test_what_was_served_comes_back_and_stop_ends_it_all(state: Path, bundle: Path) -> None:
    """The last test of the shared folder."""
    endpoint = supervise(state, Plan(settings=settings_of()))
    with Client.local(state) as client:
        same_answer(client.predict(PNG), bundle)
    processes = [*processes_of(endpoint), *mentioning(state)]
    assert any("serving.supervisor" in " ".join(each.cmdline()) for each in processes)
    assert stop(state)
    assert not [each for each in processes if each.is_running()]
    assert not endpoint.scratch.exists()
    assert not mentioning(state)
    assert not stop(state)
    assert "ended as asked" in (state / supervisor.LOG).read_text()


def test_what_cannot_start_is_told_and_leaves_nothing(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no model to serve"):
        supervise(tmp_path, Plan(settings=settings_of()))
    write_models(tmp_path, of_archive(stored))
    settings = settings_of()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.inference_port))
        taken.listen()
        with pytest.raises(
            ServerError, match=rf"port {settings.inference_port} is in use by .*{os.getpid()}"
        ):
            supervise(tmp_path, Plan(settings=settings))
    assert not mentioning(tmp_path)
    assert not (tmp_path / STATE_FILE).exists()
    assert not (tmp_path / SUPERVISOR_FILE).exists()


def test_it_gives_up_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a start that never succeeds, so that no Java is needed for it."""
    waits: list[float] = []
    monkeypatch.setattr("serving.supervisor.time.sleep", waits.append)
    kept = supervisor.Supervisor(tmp_path, Plan(settings=settings_of()))
    with pytest.raises(ServerError, match=r"given up after 10 restarts in 600 s; .*no model to serve"):
        kept._restart("the server ended with exit code 1")
    assert waits == [0, 1, 3, 7, 15, 31, 60, 60, 60, 60]


def test_the_second_server_is_kept_up_too(stored: Path, bundle: Path, tmp_path: Path) -> None:
    write_models(tmp_path, of_archive(stored))
    try:
        before = supervise(tmp_path, Plan(settings=settings_of(), kind="onnx"))
        processes = [each for each in mentioning(before.scratch) if each.pid != os.getpid()]
        assert len(processes) >= 2
        assert health.Health(tmp_path, settings_of()).look() is None
        with Client.local(tmp_path, deadline=60) as client:
            same_answer(client.predict(PNG), bundle)
            psutil.Process(before.pid).kill()
            until(lambda: "answers again" in (tmp_path / supervisor.LOG).read_text())
            same_answer(client.predict(PNG), bundle)
        assert read_endpoint(tmp_path).pid != before.pid
        assert not [each for each in processes if each.is_running()]
    finally:
        stop(tmp_path)
    assert not mentioning(tmp_path)
