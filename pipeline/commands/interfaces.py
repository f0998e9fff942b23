"""More ways to the running server: `fairlead serve grpc`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.common import fail


def grpc(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8085) -> None:
    """Answer the Open Inference Protocol over gRPC before the running server; Ctrl-C ends it."""
    import importlib.util

    from pipeline.core.params import UserError, section
    from pipeline.served import FOLDER
    from serving.endpoint import RequestError, read_endpoint
    from serving.grpc_front import serve
    from serving.settings import ServerSettings

    if not all(importlib.util.find_spec(module) for module in ("grpc", "google.protobuf")):
        fail("gRPC needs the packages of the extra 'grpc': pip install --editable '.[grpc]'")
    try:
        settings = section("server", ServerSettings)
        endpoint = read_endpoint(FOLDER)
        server = serve(FOLDER, port, settings.max_request_bytes, settings.response_timeout + 5.0)
    except RequestError as error:
        fail(f"{error}; 'make serve' starts the server")
    except (UserError, OSError) as error:
        fail(error)
    typer.echo(
        f"Open Inference Protocol over gRPC at 127.0.0.1:{server.port}, before {endpoint.url}; Ctrl-C ends it"
    )
    try:
        server.wait_for_termination()
    except KeyboardInterrupt:
        server.stop(1).wait()
