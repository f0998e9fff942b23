"""What a canary or a shadow costs the clients of the champion: nothing else differs between the rounds."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.serving.load import Generator, Load, request
from benchmarks.serving.model import NAME, VERSION, pngs, write_model
from serving.archive import build_archive
from serving.endpoint import read_token
from serving.inputs.spec import write_json
from serving.process import free_ports, running
from serving.settings import ServerSettings
from serving.state import of_archive, write_models
from serving.torchserve import TorchServe
from serving.worker.route import ROUTES, Route
from serving.worker.trial_log import FOLDER

SECONDS, ROUNDS, CONNECTIONS = 4.0, 4, (1, 32)
CHALLENGER = "challenger"
NOBODY = "http://127.0.0.1:9"  # as a challenger that is gone
TRIALS: dict[str, dict[str, object] | None] = {
    "no trial": None,
    "canary of 0.1": {"share": 0.1},
    "canary of 0.5": {"share": 0.5},
    "canary of 0.1, challenger gone": {"share": 0.1, "url": NOBODY},
    "shadow of 0.1": {"share": 0.1, "mode": "shadow"},
    "shadow of 1.0": {"share": 1.0, "mode": "shadow"},
}


def run() -> dict[str, float]:
    """Requests a second and latency in ms at one and at many connections, medians of rounds that take turns."""
    seen: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with _served(folder):
            for name, trial in [*TRIALS.items()] * ROUNDS:
                _route(folder / "state", trial)
                for connections in CONNECTIONS:
                    for key, value in _figures(_load(folder / "state", connections)).items():
                        seen[f"{name}: {connections} connections: {key}"].append(value)
    return {key: float(statistics.median(values)) for key, values in seen.items()}


@contextmanager
def _served(folder: Path) -> Iterator[None]:
    """Two versions of one network, as good as each other, side by side in one server."""
    write_model(folder / "one")
    shutil.copytree(folder / "one", folder / "two")
    write_json(folder / "two" / "bundle" / "bundle.json", {"version": CHALLENGER})
    archive = folder / "two" / f"{NAME}.mar"
    build_archive(folder / "two" / "bundle", archive, NAME)
    models = of_archive(folder / "one" / f"{NAME}.mar").beside(NAME, CHALLENGER, archive)
    write_models(folder / "state", models)
    with TorchServe(None, ServerSettings(**free_ports()), folder / "state") as server:
        server.start(pngs()[0], "image/png")
        _load(folder / "state", 32, 10.0)  # Java is slow at first
        yield


def _route(state: Path, trial: dict[str, object] | None) -> None:
    (state / ROUTES).unlink(missing_ok=True)
    if trial is not None:
        endpoint = running(state)
        assert endpoint
        salt = f"{time.monotonic_ns():x}"
        (state / FOLDER / salt).mkdir(parents=True)
        fields = {"mode": "canary", "url": endpoint.url, **trial}
        route = Route(NAME, VERSION, CHALLENGER, salt=salt, until=time.time() + 600, **fields)  # type: ignore[arg-type]
        write_json(state / ROUTES, asdict(route))
    time.sleep(0.5)


def _load(state: Path, connections: int, seconds: float = SECONDS) -> Load:
    endpoint = running(state)
    assert endpoint
    url = f"{endpoint.url}/predictions/{NAME}"
    headers = {"Authorization": f"Bearer {read_token(state)}", "Content-Type": "image/png"}
    generator = Generator(url, [request(url, body, headers) for body in pngs()], connections)
    try:
        return generator.closed(seconds)
    finally:
        generator.close()


def _figures(load: Load) -> dict[str, float]:
    assert not load.errors, load.errors
    p50, p99 = np.quantile(load.latencies, (0.5, 0.99)) * 1000
    return {"requests a second": load.answered / load.seconds, "p50 ms": float(p50), "p99 ms": float(p99)}
