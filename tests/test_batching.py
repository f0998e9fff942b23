"""Batches of what waits already: the one changed call of TorchServe, and a server that runs with it."""

from __future__ import annotations

import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from serving import batching
from serving.config import class_path, find_torchserve
from serving.settings import ServerError, ServerSettings
from serving.torchserve import TorchServe
from serving.worker.reading import ReadAhead
from tests.live import PNG, processes_of, same_answer, settings_of

SERVER = find_torchserve() / "ts/frontend/model-server.jar"


def test_one_call_is_changed_and_nothing_else(tmp_path: Path) -> None:
    assert batching.write_class(SERVER, tmp_path / "fresh.jar")
    with zipfile.ZipFile(SERVER) as server, zipfile.ZipFile(tmp_path / "fresh.jar") as fresh:
        assert fresh.namelist() == [batching.CLASS]
        before, after = server.read(batching.CLASS), fresh.read(batching.CLASS)
    assert before.count(batching.WAITS) == 1
    assert after.count(batching.WAITS) == 0
    changed = [at for at, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    start = before.index(batching.WAITS)
    assert start <= changed[0]
    assert changed[-1] < start + len(batching.WAITS)


def test_another_torchserve_is_refused_and_a_delay_needs_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "KNOWN", hashlib.sha256(b"another").hexdigest())
    with pytest.raises(ServerError, match=r"'server.max_batch_delay' may be 0 with torchserve 0\.12\.0 only"):
        class_path(find_torchserve(), tmp_path, ServerSettings(max_batch_delay=0))
    assert class_path(find_torchserve(), tmp_path, ServerSettings(max_batch_delay=1)) == str(SERVER)
    assert not list(tmp_path.iterdir())


class Pieces:
    """A connection that gives its bytes in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.calls = 0

    def recv(self, size: int, /) -> bytes:
        self.calls += 1
        piece = self.pieces.pop(0) if self.pieces else b""
        assert len(piece) <= size
        return piece


def test_a_message_is_read_whole_however_it_comes() -> None:
    whole, torn = Pieces(b"abcdefgh"), Pieces(b"a", b"bcd", b"efgh")
    for connection in (whole, torn):
        read = ReadAhead()
        assert [bytes(read(connection, length)) for length in (2, 0, 5, 1)] == [b"ab", b"", b"cdefg", b"h"]
    assert (whole.calls, torn.calls) == (1, 3)
    with pytest.raises(SystemExit) as ended:
        ReadAhead()(Pieces(b"abc"), 4)
    assert ended.value.code == 0
    large = bytes(range(256)) * 1024
    assert bytes(ReadAhead()(Pieces(large), len(large))) == large


def test_a_server_runs_the_changed_class_and_answers_lone_and_busy(archive: Path, bundle: Path) -> None:
    with TorchServe(archive, settings_of(max_batch_delay=0)) as server:
        endpoint = server.start(PNG)
        java = processes_of(endpoint)[0]
        assert isinstance(java, psutil.Process)
        assert any(Path(each.path).name == "batching.jar" for each in java.open_files())
        with server.client() as client, ThreadPoolExecutor(16) as pool:
            same_answer(client.predict(PNG), bundle)
            for answer in pool.map(lambda _: client.predict(PNG), range(200)):
                same_answer(answer, bundle)
