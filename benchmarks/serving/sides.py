"""Who is measured: how each is started, asked, and read. All serve one model with the same number of workers."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving import processes
from benchmarks.serving.model import NAME
from serving.config import find_java
from serving.endpoint import Kind, read_token
from serving.server import ServerSettings, free_ports
from serving.servers import SERVERS

PEERS = Path(__file__).parent / "peers"
Shares = dict[str, float]


@dataclass
class Place:
    """What a side is started with: the model's folder, a folder of its own, the peers' environments, and workers."""

    model: Path
    scratch: Path
    peers: Path
    workers: int
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def spawn(self, *command: str | Path, folder: Path | None = None, **env: str) -> subprocess.Popen[bytes]:
        """Start a server with the mark of this side; what it prints goes to `log` in its folder."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        ours = {
            processes.MARK: self.mark,
            "DIGITS_MODEL": str(self.model / "bundle/model.onnx"),
            "DIGITS_WORKERS": str(self.workers),
            "PYTHONPATH": str(PEERS),
            "ORT_DISABLE_TELEMETRY": "1",
        }
        with (self.scratch / "log").open("ab") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                cwd=folder or self.scratch,
                env={**os.environ, **ours, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@dataclass
class Started:
    """A server that was started: its root process, where to post to, with what headers, and how it ends."""

    root: int
    url: str
    headers: Callable[[], dict[str, str]] = dict
    stop: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Side:
    """One server: `body` makes a request's body of a PNG, `read` an answer's probabilities by class."""

    about: str
    start: Callable[[Place], Started]
    body: Callable[[bytes], bytes] = lambda png: png
    content_type: str = "image/png"
    read: Callable[[Any], Shares] = lambda answer: answer["probabilities"]
    warm: bool = False  # Java compiles what runs often: it needs a longer warm-up
    peer: str | None = None  # its environment


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ours(kind: Kind) -> Callable[[Place], Started]:
    """A server of ours with the settings that a new project has."""

    def start(place: Place) -> Started:
        settings = ServerSettings(workers=place.workers, **free_ports())  # type: ignore[arg-type]
        server = SERVERS[kind](place.model / f"{NAME}.mar", settings, place.scratch / "state")
        png = next((place.model / "bundle/golden").glob("*.png")).read_bytes()
        endpoint = server.start(png, "image/png")
        url = f"{endpoint.url}/predictions/{NAME}"
        return Started(endpoint.pid, url, lambda: _token(server.folder), server.stop)

    return start


def _token(folder: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {read_token(folder)}"}


def naive(place: Place) -> Started:
    """TorchServe through its own launcher, with no setting but the ports."""
    place.scratch.mkdir(parents=True, exist_ok=True)
    manifest = {
        "runtime": "python",
        "model": {
            "modelName": NAME, "modelVersion": "1.0", "handler": "naive_handler.py", "serializedFile": "model.pt",
        },
    }  # fmt: skip
    with zipfile.ZipFile(place.scratch / f"{NAME}.mar", "w") as packed:
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        packed.write(PEERS / "naive_handler.py", "naive_handler.py")
        packed.write(place.model / "model.pt", "model.pt")
    ports = free_ports()
    lines = [f"{name[:-5]}_address=http://127.0.0.1:{port}" for name, port in ports.items()]
    lines += [f"grpc_{kind}_port={free_port()}" for kind in ("inference", "management")]
    (place.scratch / "config.properties").write_text("\n".join(lines) + "\n")
    process = place.spawn(
        Path(sys.executable).parent / "torchserve", "--start", "--foreground", "--ncs", "--model-store",
        place.scratch, "--models", f"{NAME}={NAME}.mar", "--ts-config", place.scratch / "config.properties",
        JAVA_HOME=str(Path(find_java(None)).parent.parent), TEMP=str(place.scratch),
    )  # fmt: skip
    url = f"http://127.0.0.1:{ports['inference_port']}/predictions/{NAME}"
    return Started(process.pid, url, lambda: _token(place.scratch))


def peer(
    name: str, command: Callable[[Path, int, Place], list[str | Path]], path: str
) -> Callable[[Place], Started]:
    """A peer in its own environment; `command(bin, port, place)` starts it."""

    def start(place: Place) -> Started:
        port, binaries = free_port(), place.peers / name / "bin"
        env = {"DIGITS_PORT": str(port), "PATH": f"{binaries}:{os.environ['PATH']}"}
        process = place.spawn(*command(binaries, port, place), **env)
        return Started(process.pid, f"http://127.0.0.1:{port}{path}")

    return start


def _fastapi(binaries: Path, port: int, place: Place) -> list[str | Path]:
    served = [binaries / "uvicorn", "fastapi_app:app", "--port", str(port), "--workers", str(place.workers)]
    return [*served, "--no-access-log", "--log-level", "warning"]


def _bentoml(binaries: Path, port: int, place: Place) -> list[str | Path]:
    return [binaries / "bentoml", "serve", "bentoml_app:Service", "--working-dir", PEERS, "--port", str(port)]


def _mlserver(binaries: Path, port: int, place: Place) -> list[str | Path]:
    server = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
        "parallel_workers": place.workers, "debug": False,
    }  # fmt: skip
    model = {
        "name": NAME,
        "implementation": "mlserver_app.Runtime",
        "max_batch_size": 8,
        "max_batch_time": 0.001,
    }
    folder = place.scratch / "models"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [binaries / "mlserver", "start", folder]


def _mlflow(binaries: Path, port: int, place: Place) -> list[str | Path]:
    saved = place.scratch / "model"
    place.spawn(binaries / "python", PEERS / "mlflow_save.py", saved).wait()
    served = [binaries / "mlflow", "models", "serve", "-m", saved, "--env-manager", "local"]
    return [*served, "-h", "127.0.0.1", "-p", str(port), "-w", str(place.workers)]


def _script(name: str) -> Callable[[Path, int, Place], list[str | Path]]:
    return lambda binaries, port, place: [binaries / "python", PEERS / name]


def _base64(png: bytes) -> str:
    return base64.b64encode(png).decode()


def _open_inference(png: bytes) -> bytes:
    given = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [_base64(png)]}
    return json.dumps({"inputs": [given], "parameters": {"content_type": "str"}}).encode()


def _table(png: bytes) -> bytes:
    return json.dumps({"dataframe_split": {"columns": ["image"], "data": [[_base64(png)]]}}).encode()


JSON = "application/json"
SIDES: dict[str, Side] = {
    "ours": Side("TorchServe with our handler and settings", ours("torchserve"), warm=True),
    "ours-onnx": Side("our second server: ONNX Runtime under uvicorn", ours("onnx")),
    "torchserve": Side("TorchServe's defaults, base handler, TorchScript", naive, read=dict, warm=True),
    "fastapi": Side("FastAPI with ONNX Runtime", peer("fastapi", _fastapi, "/predict"), peer="fastapi"),
    "litserve": Side(
        "LitServe, batches of 8 within 1 ms", peer("litserve", _script("litserve_app.py"), "/predict"),
        lambda png: json.dumps({"image": _base64(png)}).encode(), JSON, peer="litserve",
    ),
    "bentoml": Side("BentoML", peer("bentoml", _bentoml, "/predict"), peer="bentoml"),
    "mlserver": Side(
        "MLServer, batches of 8 within 1 ms", peer("mlserver", _mlserver, f"/v2/models/{NAME}/infer"), _open_inference,
        JSON, lambda answer: json.loads(answer["outputs"][0]["data"][0])["probabilities"], peer="mlserver",
    ),
    "mlflow": Side(
        "mlflow models serve", peer("mlflow", _mlflow, "/invocations"), _table, JSON,
        lambda answer: answer["predictions"][0]["probabilities"], peer="mlflow",
    ),
    "ray": Side("Ray Serve, batches of 8 within 1 ms", peer("ray", _script("ray_app.py"), "/"), peer="ray"),
}  # fmt: skip


def missing(side: Side, peers: Path) -> str | None:
    """Why a side cannot be started here; None where it can."""
    if side.peer and not (peers / side.peer / "bin/python").exists():
        return f"not installed in {peers / side.peer}"
    return None


def find(started: Started, place: Place) -> list[psutil.Process]:
    """The processes of a started side."""
    return processes.members(started.root, place.mark)
