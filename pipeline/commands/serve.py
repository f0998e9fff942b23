"""Run the server: `fairlead serve ...`."""

from __future__ import annotations

import textwrap

import typer

from pipeline.commands.common import fail, group
from pipeline.core.params import UserError

app = group("Run TorchServe with the promoted model.")


@app.command()
def up() -> None:
    """Start the server with the promoted model; does nothing where it runs already."""
    from pipeline.endpoint import start
    from serving.client import RequestError
    from serving.server import ServerError

    try:
        start(lambda step: typer.echo(textwrap.indent(step, "  ")))
    except (UserError, ServerError, RequestError) as error:
        fail(error)


@app.command()
def down() -> None:
    """Stop the server and its workers."""
    from pipeline.endpoint import FOLDER
    from serving.process import stop

    typer.echo("stopped" if stop(FOLDER) else "no server was running")


@app.command()
def status() -> None:
    """Say what is served, where; exit code 1 where nothing is."""
    from pipeline.endpoint import FOLDER, describe
    from serving.process import running

    endpoint = running(FOLDER)
    if endpoint is None:
        fail("no server is running; 'make serve' starts it")
    typer.echo(describe(endpoint))
