"""What the project's endpoint serves now, and clients that ask it."""

from __future__ import annotations

from pipeline.core.params import section
from pipeline.core.project import Name
from pipeline.core.stage import STATE
from serving.client import Client
from serving.endpoint import Endpoint, RequestError, read_endpoint
from serving.grpc_client import GrpcClient
from serving.process import running
from serving.servers import management
from serving.settings import ServerError
from serving.state import read_models
from serving.supervisor import planned, supervision

FOLDER = STATE / "server"


def describe() -> str:
    """What is served and how to ask it."""
    endpoint = running(FOLDER)
    if endpoint is None:
        return "no server is running; 'make serve' starts it"
    lines = []
    for name, served in read_models(FOLDER).models.items():
        lines.append(f"model    {name}, version {served.default}")
        lines.append(f"endpoint {endpoint.url}/predictions/{name}")
        lines += [
            f"beside   version {version}: {endpoint.url}/predictions/{name}/{version}"
            for version in served.versions
            if version != served.default
        ]
    if plan := planned(FOLDER):
        lines += [f"front    {plan.settings.front_url}"] if plan.settings.front_url else []
        lines.append(f"metrics  http://{plan.settings.host}:{plan.settings.prometheus_port}/metrics")
    kept = supervision(FOLDER)
    if kept and kept.restarts:
        lines.append(f"restarts {kept.restarts}, the last because {kept.reason}")
    lines.append(f"token    in {FOLDER / 'key_file.json'}, sent as 'Authorization: Bearer <token>'")
    lines.append(f"ask      fairlead predict FILE...      stop: make stop (pid {endpoint.pid})")
    return "\n".join(lines)


def status() -> dict[str, object]:
    """What is served as plain data: the address, and of each model its versions with their workers.

    Raises:
        ServerError: no server runs, or it does not answer.
    """
    endpoint = running(FOLDER)
    if endpoint is None:
        raise ServerError("no server is running; 'make serve' starts it")
    try:
        with management(FOLDER, timeout=10) as asking:
            models = {
                name: {
                    "default": asking.default(name),
                    "address": f"{endpoint.url}/predictions/{name}",
                    "versions": {
                        version: {
                            "ready": found.ready,
                            "workers": found.min_workers,
                            "waiting": found.pending,
                        }
                        for version, found in sorted(asking.versions(name).items())
                    },
                }
                for name in asking.names()
            }
    except RequestError as error:
        raise ServerError(str(error)) from None
    return {
        "url": endpoint.url,
        "pid": endpoint.pid,
        "token": str(FOLDER / "key_file.json"),
        "models": models,
    }


def client(name: str | None = None) -> Client:
    """A client of one of the models that are served, the project's own unless it is named.

    Raises:
        RequestError: no server was started, or it is down.
        ServerError: it does not serve that model.
    """
    return Client.local(FOLDER, name=_asked(name, read_endpoint(FOLDER)))


def grpc_client(name: str | None = None) -> GrpcClient:
    """The same over gRPC.

    Raises:
        RequestError: no server was started, it is down, or its port for gRPC is not known.
        ServerError: it does not serve that model.
    """
    return GrpcClient.local(FOLDER, name=_asked(name, read_endpoint(FOLDER)))


def _asked(name: str | None, endpoint: Endpoint) -> str:
    served = read_models(FOLDER).models
    if name is not None and name not in served:
        raise ServerError(
            f"the server has no model '{name}'; it serves {', '.join(sorted(served)) or 'none'}"
        )
    own = section("name", Name)
    return name or (own if own in served else endpoint.name)
