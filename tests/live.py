"""An untrained model's bundle and archive, and what every test of a live TorchServe needs."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from serving.archive import build_archive
from serving.endpoint import Endpoint
from serving.inputs.image import encode_png
from serving.inputs.spec import write_json
from serving.predictor import Predictor
from serving.server import ServerSettings, free_ports
from tests.conftest import spec_of

VERSION = "20c1a9e0b3f2"
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 28, 28)).astype(np.uint8)
PNG = encode_png(PIXELS)
IMAGE = json.dumps({"image": base64.b64encode(PNG).decode()}).encode()
JSON = "application/json"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a network that was never trained; only its answers' equality matters."""
    import torch

    torch.manual_seed(0)
    head = torch.nn.Linear(28 * 28, 10)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.head(image.flatten(1).float() / 255), 1)

    folder = tmp_path_factory.mktemp("bundle")
    example = (torch.zeros(2, 1, 28, 28, dtype=torch.uint8),)
    shapes = ({0: torch.export.Dim("n")},)
    torch.onnx.export(Net().eval(), example, folder / "model.onnx", dynamic_shapes=shapes, verbose=False)
    write_json(folder / "spec.json", spec_of((1, 28, 28), "abcdefghij"))
    write_json(folder / "bundle.json", {"version": VERSION, "name": "digits"})
    (folder / "golden").mkdir()
    (folder / "golden/0.png").write_bytes(PNG)
    return folder


@pytest.fixture(scope="session")
def archive(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "digits.mar"
    build_archive(bundle, path, "digits")
    return path


@pytest.fixture(scope="session")
def stored(bundle: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive as it lies in the store, beside its bundle with a golden request."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copytree(bundle, folder / "bundle")
    golden = {"requests": [{"file": "0.png", "content_type": "image/png"}]}
    write_json(folder / "bundle/golden/golden.json", golden)
    return Path(shutil.copy(archive, folder))


def settings_of(**given: object) -> ServerSettings:
    return ServerSettings(**{"workers": 1, **free_ports(), **given})  # type: ignore[arg-type]


def same_answer(answer: dict, bundle: Path) -> None:
    expected = Predictor(bundle).answer([PNG])[0]
    assert isinstance(expected, dict)
    assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    assert answer["label"] == expected["label"]
    assert answer["model_version"] == VERSION
    assert answer["request_id"]


def processes_of(endpoint: Endpoint) -> list[psutil.Process]:
    java = psutil.Process(endpoint.pid)
    assert "java" in java.name()
    workers = java.children(recursive=True)
    assert workers, "a live server has Python workers"
    return [java, *workers]


def mentioning(folder: Path) -> list[psutil.Process]:
    """Processes with this folder on their command line: Java and its workers carry it."""
    return [each for each in psutil.process_iter() if str(folder) in " ".join(_command(each))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def until(what: Callable[[], bool]) -> None:
    """Wait for what must come, for two minutes at most."""
    end = time.monotonic() + 120
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def closed(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", httpx.URL(url).port or 0)) != 0


def explained(client: httpx.Client, path: str, **given: Any) -> httpx.Response:
    """An explanation, asked for until the worker has loaded captum."""
    for _ in range(60):
        answer = client.post(path, **given)
        if answer.status_code != 503:
            break
        time.sleep(1)
    return answer
