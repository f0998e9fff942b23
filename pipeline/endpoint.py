"""The project's endpoint: TorchServe with the champion of the registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline import registry, tracking
from pipeline.core.params import UserError, section
from pipeline.core.project import Name
from pipeline.core.stage import STATE, replacing
from serving.client import Endpoint
from serving.process import running
from serving.server import ServerSettings, TorchServe

FOLDER = STATE / "server"
STORE = STATE / "store"


def fetch(name: str) -> tuple[Path, bytes, str]:
    """The champion's archive, fetched once, and a golden request with its content type.

    Raises:
        UserError: nothing is promoted yet, or the archive is not the one that was certified.
    """
    champion = registry.champion(name)
    if champion is None:
        raise UserError(
            f"no version of '{name}' is promoted in the MLflow store {tracking.uri()}; 'make repro' makes and judges "
            "one, and 'make report' says why a model was not promoted (where the store was lost or changed: 'dvc repro "
            "-f -s train' first, which records the model anew)"
        )
    place = STORE / f"{name}-{champion.model_version}"
    if not place.exists():
        with replacing(place) as fresh:
            registry.download_archive(champion, fresh)
            found = registry.download_bundle(champion, fresh / "fetched")
            found.rename(fresh / "bundle")
            shutil.rmtree(fresh / "fetched")
    golden = json.loads((place / "bundle" / "golden" / "golden.json").read_text())["requests"][0]
    body = (place / "bundle" / "golden" / golden["file"]).read_bytes()
    return place / f"{name}.mar", body, golden["content_type"]


def start(report: Callable[[str], None]) -> Endpoint:
    """Start the server with the champion; a running one of the same version is left as it is.

    Raises:
        UserError: nothing is promoted.
        ServerError: it cannot start.
    """
    name = section("name", Name)
    archive, body, content_type = fetch(name)
    live = running(FOLDER)
    server = TorchServe(archive, section("server", ServerSettings), FOLDER, owned=False)
    if live is not None:
        if archive.parent.name == f"{live.name}-{live.version}":
            report(f"already running\n{describe(live)}")
            return live
        report(f"stopping version {live.version}, which is no longer the champion")
        server.stop()
    endpoint = server.start(body, content_type, report)
    report(describe(endpoint))
    return endpoint


def describe(endpoint: Endpoint) -> str:
    """What is served and how to ask it."""
    return (
        f"model    {endpoint.name}, version {endpoint.version} (pid {endpoint.pid})\n"
        f"endpoint {endpoint.url}/predictions/{endpoint.name}\n"
        f"token    in {FOLDER / 'key_file.json'}, sent as 'Authorization: Bearer <token>'\n"
        f"ask      fairlead predict FILE...      stop: make stop"
    )
