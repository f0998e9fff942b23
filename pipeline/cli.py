"""The command `fairlead`: ask the endpoint, run the server, see where things are."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pipeline.core.params import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
serve_app = typer.Typer(no_args_is_help=True, help="Run TorchServe with the promoted model.")
app.add_typer(serve_app, name="serve")
CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".json": "application/json",
    ".csv": "text/csv",
    ".txt": "text/plain",
}


@app.callback()
def about() -> None:
    """Fairlead: from data to a tuned, judged, tracked, certified and served model."""


def fail(message: object) -> NoReturn:
    """One message, exit code 1, no traceback."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Request files: PNG, JPEG, JSON, CSV or text.")],
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print each whole answer as one line of JSON.")
    ] = False,
) -> None:
    """Ask the running server about each FILE."""
    import json

    from pipeline.endpoint import FOLDER
    from serving.client import Client, RequestError

    failed = False
    try:
        client = Client.local(FOLDER)
    except RequestError as error:
        fail(f"{error}; 'make serve' starts the server")
    with client:
        for file in files:
            try:
                answer = client.predict(
                    file.read_bytes(), CONTENT_TYPES.get(file.suffix.lower(), "application/octet-stream")
                )
            except RequestError as error:
                failed = True
                hint = "" if error.status else "; 'make serve' starts the server"
                typer.echo(f"{file}: {error}{hint}", err=True)
                continue
            except OSError as error:
                failed = True
                typer.echo(f"{file}: {error.strerror}", err=True)
                continue
            if json_lines:
                typer.echo(json.dumps({"file": str(file), **answer}))
            else:
                typer.echo(f"{file}: {told(answer)}model {answer['model_version']})")
    if failed:
        raise typer.Exit(1)


def told(answer: dict[str, Any]) -> str:
    """An answer in a few words, with a bracket left open."""
    if "image" in answer:
        return f"{answer['label']}  (seed {answer['seed']}, a PNG of {len(answer['image']) * 3 // 4} bytes, "
    if "label" in answer:
        return f"{answer['label']}  ({answer['probabilities'][answer['label']]:.4f}, "
    if "anomaly" in answer:
        return f"{'anomaly' if answer['anomaly'] else 'normal'}  (score {answer['score']:.3f}, "
    return ", ".join(f"{name} {value:.5g}" for name, value in answer["values"].items()) + "  ("


@serve_app.command()
def up() -> None:
    """Start the server with the promoted model; does nothing where it runs already."""
    from pipeline.endpoint import start
    from serving.client import RequestError
    from serving.server import ServerError

    try:
        start(lambda step: typer.echo(textwrap.indent(step, "  ")))
    except (UserError, ServerError, RequestError) as error:
        fail(error)


@serve_app.command()
def down() -> None:
    """Stop the server and its workers."""
    from pipeline.endpoint import FOLDER
    from serving.process import stop

    typer.echo("stopped" if stop(FOLDER) else "no server was running")


@serve_app.command()
def status() -> None:
    """Say what is served, where; exit code 1 where nothing is."""
    from pipeline.endpoint import FOLDER, describe
    from serving.process import running

    endpoint = running(FOLDER)
    if endpoint is None:
        fail("no server is running; 'make serve' starts it")
    typer.echo(describe(endpoint))


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Browse the runs in MLflow; Ctrl-C ends it."""
    from pipeline.ui import serve_ui

    try:
        raise typer.Exit(serve_ui(port))
    except UserError as error:
        fail(error)


@app.command()
def check() -> None:
    """Check params.yaml, every section at once; mend what a kill of DVC cut short."""
    from pipeline.lockfile import mend, unlock
    from pipeline.quickcheck import check_known_data, fits_schema, not_spelled_out

    unlock()
    if done := mend():
        typer.echo(done)
    try:
        if not fits_schema():
            from pipeline.schema import check_all  # loads every stage to say what is wrong

            check_all()
        if missing := not_spelled_out():
            fail(
                f"params.yaml lacks {', '.join(missing)}: DVC tracks every key; recipes/mnist.yaml has them all"
            )
        check_known_data()
    except UserError as error:
        fail(error)
    typer.echo("params.yaml is right")


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help="The recipe to use; without one, all are listed.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Lose changes to params.yaml.")] = False,
) -> None:
    """List the recipes, or put one in the place of params.yaml."""
    from pipeline.recipes import listed, use

    try:
        if name:
            typer.echo(use(name, force))
            return
        for each, purpose in listed().items():
            typer.echo(f"{each:16} {purpose}")
    except UserError as error:
        fail(error)


@app.command()
def summary() -> None:
    """Show the last model's metrics, its verdict, and where to look next."""
    from pipeline.summary import show

    try:
        show()
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    sys.exit(app())
