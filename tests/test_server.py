"""A real TorchServe's management side and its metrics; what it answers is in `test_contract.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.endpoint import read_token
from serving.server import running
from serving.torchserve import TorchServe
from tests.live import PNG, settings_of

pytestmark = pytest.mark.slow
LIMIT = 100_000


@pytest.fixture(scope="module")
def server(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """One worker and a long delay, so that requests sent together share a batch."""
    settings = settings_of(max_batch_delay=50, max_request_bytes=LIMIT)
    folder = tmp_path_factory.mktemp("state")
    folder.chmod(0o755)  # `start` must close it to others
    with TorchServe(archive, settings, folder) as started:
        started.start(PNG, "image/png")
        yield started


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


def test_metrics_need_no_token(server: TorchServe) -> None:
    endpoint = running(server.folder)
    assert endpoint
    assert "ts_inference_requests_total" in httpx.get(f"{endpoint.metrics_url}/metrics").text
