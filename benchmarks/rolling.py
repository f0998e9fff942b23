"""Rolling updates under saturation: is a request lost, and who answers while one version takes another's place?

Clients in processes of their own ask over many connections without a pause, so that a queue stands before the
workers. Meanwhile one version after the other is rolled out, among them broken ones, and one is rolled back. Every
request must be answered, by the version before or the version after, and by none once the next but one is out.
"""

from __future__ import annotations

import multiprocessing
import re
import shutil
import socket
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from serving.archive import build_archive
from serving.deploy import Rollout, changing
from serving.endpoint import read_token
from serving.inputs.image import encode_png
from serving.inputs.spec import DataSpec, ImageInput, Transform, write_json
from serving.management import Management
from serving.predictor import Predictor
from serving.process import free_ports
from serving.settings import ServerError, ServerSettings
from serving.state import sha256
from serving.torchserve import TorchServe

NAME, DEPLOYS, CLIENTS, CONNECTIONS = "digits", 6, 2, 16
PNG = encode_png(np.random.default_rng(0).integers(0, 256, (1, 28, 28)).astype(np.uint8))
BREAKS = {
    "cannot load": "raise ImportError('broken')",
    "cannot answer": "def handle(batch, context):\n    if batch:\n        raise OSError('broken')",
    "dies": "import os\ndef handle(batch, context):\n    if batch:\n        os._exit(1)",
}


@dataclass
class Seen:
    """What the connections of one client were answered."""

    answers: dict[str, int] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, version: str, began: float, ended: float) -> None:
        """Count an answer of a version."""
        self.answers[version] = self.answers.get(version, 0) + 1
        self.first[version] = min(ended, self.first.get(version, ended))
        self.last[version] = max(ended, self.last.get(version, ended))
        self.slowest = max(self.slowest, ended - began)


def make(folder: Path, version: str, seed: int) -> Path:
    """An untrained network's archive, with all that lies beside it in the store."""
    import torch

    from models.params import Model
    from models.served import Served, save
    from pipeline.core.dataset import image_columns
    from pipeline.export import export_graphs

    torch.manual_seed(seed)
    spec = DataSpec(
        modality="image", task="classification", source="benchmark", columns=image_columns((1, 28, 28)),
        classes=tuple("0123456789"), image=ImageInput(),
    )  # fmt: skip
    bundle = folder / "bundle"
    (bundle / "golden").mkdir(parents=True)
    served = Served(Model(), spec, Transform(mean=(33.0,), std=(78.0,))).eval()
    save(served, Model(), spec, Transform(mean=(33.0,), std=(78.0,)), bundle)
    write_json(bundle / "transform.json", Transform(mean=(33.0,), std=(78.0,)))
    export_graphs(served, spec.input, bundle)
    write_json(bundle / "bundle.json", {"version": version})
    answer = Predictor(bundle).answer([PNG])[0]
    assert isinstance(answer, dict)
    (bundle / "golden" / "0.png").write_bytes(PNG)
    golden = {"requests": [{"file": "0.png", "content_type": "image/png", **answer}]}
    write_json(bundle / "golden" / "golden.json", golden)
    build_archive(bundle, folder / f"{NAME}.mar", NAME)
    write_json(folder / "receipt.json", {"archive_sha256": sha256(folder / f"{NAME}.mar")})
    return folder / f"{NAME}.mar"


def broken(archive: Path, folder: Path, handler: str) -> Path:
    """The same archive with another handler."""
    shutil.copytree(archive.parent, folder)
    found = folder / archive.name
    with zipfile.ZipFile(archive) as good, zipfile.ZipFile(found, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, handler if name == "handler.py" else good.read(name))
    write_json(folder / "receipt.json", {"archive_sha256": sha256(found)})
    return found


def converse(port: int, token: str, ends: Event, seen: Seen) -> None:
    """One connection: ask, read the whole answer, ask again."""
    head = (
        f"POST /predictions/{NAME} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: image/png\r\nContent-Length: {len(PNG)}\r\n\r\n"
    ).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    while not ends.is_set():
        began = time.time()
        try:
            connection.sendall(head + PNG)
            answer = receive(connection)
        except OSError as error:
            seen.lost.append(f"{error!r}")
            connection.close()
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            continue
        version = re.search(rb'"model_version": "([^"]+)"', answer)
        if version and answer.startswith(b"HTTP/1.1 200"):
            seen.add(version[1].decode(), began, time.time())
        else:
            seen.lost.append(answer[:300].decode(errors="replace"))
    connection.close()


def receive(connection: socket.socket) -> bytes:
    """An answer, by its Content-Length."""
    answer = b""
    while True:
        piece = connection.recv(65536)
        if not piece:
            raise OSError("the server closed the connection")
        answer += piece
        top, found, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", top)
        if found and length and len(body) >= int(length[1]):
            return answer


def client(port: int, token: str, ends: Event, sink: Any) -> None:
    """A process that asks over several connections."""
    seen = [Seen() for _ in range(CONNECTIONS)]
    threads = [Thread(target=converse, args=(port, token, ends, each)) for each in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.put(seen)


def run() -> dict[str, Any]:
    """Roll versions out and back under load; every figure that must be 0 says `lost` or `wrong`."""
    settings = ServerSettings(**free_ports(), workers=2)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(prefix="fairlead-") as scratch:
        root = Path(scratch)
        archives = {f"v{at}": make(root / f"v{at}", f"v{at}", at) for at in range(DEPLOYS + 1)}
        for at, (kind, handler) in enumerate(BREAKS.items()):
            archives[kind] = broken(
                make(root / f"good{at}", kind.replace(" ", "-"), 99), root / f"bad{at}", handler
            )
        folder = root / "state"
        with TorchServe(archives["v0"], settings, folder, model_api=True) as server:
            server.start()
            return under_load(folder, settings, archives)


def under_load(folder: Path, settings: ServerSettings, archives: dict[str, Path]) -> dict[str, Any]:
    """The figures, from clients that ask from before the first change until after the last."""
    spawn = multiprocessing.get_context("spawn")
    ends, sink = spawn.Event(), spawn.Queue()
    words = (settings.inference_port, read_token(folder), ends, sink)
    clients = [spawn.Process(target=client, args=words, daemon=True) for _ in range(CLIENTS)]
    for process in clients:
        process.start()
    try:
        time.sleep(3)
        began = time.time()
        seconds, waiting, refused, back = change(folder, settings, archives)
        wall = time.time() - began
    finally:
        ends.set()
    seen = [each for _ in clients for each in sink.get(timeout=60)]
    total = sum(sum(each.answers.values()) for each in seen)
    lost = [reason for each in seen for reason in each.lost]
    for reason in sorted(set(lost))[:5]:
        print(f"  lost: {reason}")
    return {
        "requests": total,
        "requests_per_second": total / (wall + 3),
        "connections": CLIENTS * CONNECTIONS,
        "lost": len(lost),
        "wrong_version": wrong(seen),
        "deploys": DEPLOYS,
        "broken_deploys_refused": refused,
        "waiting_at_switch_least": min(waiting),
        "deploy_seconds_to_switch_median": float(np.median(seconds)),
        "rollback_seconds_to_switch": back,
        "slowest_answer_seconds": max(each.slowest for each in seen),
    }


def change(
    folder: Path, settings: ServerSettings, archives: dict[str, Path]
) -> tuple[list[float], list[int], int, float]:
    """Roll every version out, broken ones between, and the first again: seconds, queues, refusals, rollback."""
    seconds, waiting, refused, switched = [], [], 0, [0.0]

    def watch(step: str) -> None:
        if "is what serves now" in step:
            switched[0] = time.time()
            with Management(folder) as management:
                waiting.append(max(found.pending for found in management.versions(NAME).values()))
        print(f"  {step}")

    with changing(folder), Rollout(folder, settings, 1e-4, watch) as rollout:
        for at in range(1, DEPLOYS + 1):
            began = time.time()
            rollout.replace(NAME, f"v{at}", archives[f"v{at}"])
            seconds.append(switched[0] - began)
            kind = list(BREAKS)[at % len(BREAKS)]
            try:
                rollout.replace(NAME, kind.replace(" ", "-"), archives[kind])
            except ServerError:
                refused += 1
        began = time.time()
        rollout.replace(NAME, "v0", archives["v0"])  # as a rollback does
    return seconds, waiting, refused, switched[0] - began


def wrong(seen: list[Seen]) -> int:
    """Answers of versions that were broken, and versions that still answered when the next but one did already."""
    last = {
        f"v{at}": max((e.last[f"v{at}"] for e in seen if f"v{at}" in e.last), default=0.0)
        for at in range(1, DEPLOYS)
    }
    first = {
        f"v{at}": min((e.first[f"v{at}"] for e in seen if f"v{at}" in e.first), default=float("inf"))
        for at in range(DEPLOYS + 1)
    }
    strangers = sum(count for each in seen for version, count in each.answers.items() if version not in first)
    late = sum(last[f"v{at}"] > first[f"v{at + 2}"] for at in range(1, DEPLOYS - 1))
    return strangers + late
