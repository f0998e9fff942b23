"""`fairlead serve` with the second server: the same commands, the same history."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import endpoint
from serving.process import running
from tests.test_serve_commands import VERSIONS, answering, project, promote, refused, works

pytestmark = pytest.mark.slow
assert project  # a fixture


def test_the_second_server_is_run_by_the_same_commands(project: Path) -> None:
    assert "there is no server 'mlserver'; there are torchserve, onnx" in refused(
        "serve", "up", "--server", "mlserver"
    )
    works("serve", "up", "--server", "onnx")
    live = running(endpoint.FOLDER)
    assert live
    assert live.kind == "onnx"
    assert answering() == VERSIONS[0]
    assert "1 of 1" in works("serve", "status")
    assert "onnx runs already" in refused("serve", "up", "--server", "torchserve")
    promote(project, VERSIONS[1])
    works("serve", "deploy")
    assert answering() == VERSIONS[1]
    works("serve", "rollback")
    assert answering() == VERSIONS[0]
    told = works("serve", "history")
    assert told.count("done") == 3
    assert "stopped" in works("serve", "down")
    assert running(endpoint.FOLDER) is None
