"""What a container runs: `python -m serving.container onnx|torchserve FOLDER`, with every `.mar` in the folder.

`metrics`, beside TorchServe's container and in its namespaces, serves the page for Prometheus.

Settings come from the variable FAIRLEAD_SERVER, JSON of the `server` section; the second server's tokens from the file
that FAIRLEAD_KEY_FILE names. TorchServe, which makes its own tokens anew at every start, goes without in a container:
who may reach it is the network policy's business.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from serving.asgi.management import write_wanted
from serving.asgi.run import RUN, Run
from serving.asgi.server import command_line as onnx_command
from serving.config import CONFIG, command_line, environment, write_config, write_options
from serving.edge import serve_page
from serving.settings import ServerError, ServerSettings
from serving.state import Models, check_models, of_archive, write_models

SETTINGS, KEYS = "FAIRLEAD_SERVER", "FAIRLEAD_KEY_FILE"
STATES = "fairlead-"  # names of state folders begin so
OPENED = {"inference": 8080, "metrics": 8082}  # what the pod's network may reach of TorchServe


def models_in(folder: Path) -> Models:
    """Every archive under a folder.

    Raises:
        ServerError: there is none, or one is broken.
    """
    models = Models()
    for archive in sorted(folder.rglob("*.mar")):
        for name, version, path in of_archive(archive).every():
            models = (
                models.beside(name, version, path)
                if name in models.models
                else models.serving(name, version, path)
            )
    if not models.models:
        raise ServerError(f"there is no .mar in {folder}: is the storage mounted?")
    check_models(models)
    return models


def onnx(
    models: Models, settings: ServerSettings, folder: Path, host: str
) -> tuple[list[str], dict[str, str]]:
    """The second server's command and environment.

    Raises:
        ServerError: no tokens were given.
    """
    keys = Path(os.environ.get(KEYS, ""))
    if not keys.is_file():
        raise ServerError(f"no tokens: {KEYS} must name a key_file.json; found {str(keys)!r}")
    scratch = Path(tempfile.mkdtemp(dir=folder))
    run = Run(folder=folder, key_file=keys, host=host, settings=settings)
    (scratch / RUN).write_text(run.model_dump_json())
    write_wanted(scratch, models)
    write_options(folder, settings)
    home = str(Path(__file__).parents[1])
    return onnx_command(scratch, owned=False), environment(folder, scratch) | {"PYTHONPATH": home}


def torchserve(
    models: Models, settings: ServerSettings, folder: Path, host: str
) -> tuple[list[str], dict[str, str]]:
    """TorchServe's command and environment; its management stays on the pod's loopback."""
    scratch = Path(tempfile.mkdtemp(dir=folder))
    write_config(folder, scratch, models, settings, model_api=False)
    opened = {f"{kind}_address": f"http\\://{host}\\:{getattr(settings, f'{kind}_port')}" for kind in OPENED}
    changed = {**opened, "disable_token_authorization": "true"}
    lines = (folder / CONFIG).read_text().splitlines()
    kept = [line for line in lines if line.partition("=")[0] not in changed]
    (folder / CONFIG).write_text(
        "\n".join([*kept, *(f"{key}={value}" for key, value in changed.items())]) + "\n"
    )
    return command_line(folder, scratch, settings, owned=False), environment(folder, scratch)


SERVERS = {"onnx": onnx, "torchserve": torchserve}


def ready(settings: ServerSettings) -> None:
    """Make sure that each of TorchServe's models has a worker that holds it: its own `/ping` says Healthy without.

    Raises:
        ServerError: one has none.
    """
    base = f"http://127.0.0.1:{settings.management_port}/models"
    for model in _get(base)["models"]:
        name = model["modelName"]
        workers = [worker for found in _get(f"{base}/{name}") for worker in found["workers"]]
        if not any(worker["status"] == "READY" for worker in workers):
            raise ServerError(f"no worker holds {name}")


def metrics(settings: ServerSettings, host: str) -> None:
    """Serve the page of the TorchServe that started last in this container's TMPDIR, for as long as it is there.

    Raises:
        ServerError: the port is taken.
    """
    while not (states := list(Path(tempfile.gettempdir()).glob(f"{STATES}*"))):
        time.sleep(1)
    state = max(states, key=lambda path: path.stat().st_mtime)
    own = f"http://127.0.0.1:{settings.metrics_port}/metrics"
    serve_page(state, settings.model_copy(update={"host": host}), own)
    while state.exists():
        time.sleep(1)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  loopback
        return json.load(answer)


def main() -> None:
    """Take the server's place, or check that it is ready."""
    parser = argparse.ArgumentParser(description="Serve every .mar of a folder in a container.")
    parser.add_argument("what", choices=[*SERVERS, "ready", "metrics"])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("/mnt/models"))
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104  a pod's network
    asked = parser.parse_args()
    try:
        settings = ServerSettings.model_validate_json(os.environ.get(SETTINGS) or "{}")
        if asked.what == "ready":
            ready(settings)
            return
        if asked.what == "metrics":
            metrics(settings, asked.host)
            return
        models = models_in(asked.folder)
        state = Path(tempfile.mkdtemp(prefix=STATES))
        write_models(state, models)
        command, variables = SERVERS[asked.what](models, settings, state, asked.host)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    os.chdir(state)
    os.execve(command[0], command, variables)  # noqa: S606


if __name__ == "__main__":
    main()
