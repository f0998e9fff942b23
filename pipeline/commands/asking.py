"""Ask the running server: `fairlead predict`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands.common import fail
from pipeline.core.params import UserError

CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".json": "application/json",
    ".csv": "text/csv",
    ".txt": "text/plain",
}


Model = Annotated[
    str, typer.Option("--model", help="Which model, where the server has several; the project's own else.")
]


def predict(
    files: Annotated[list[Path], typer.Argument(help="Request files: PNG, JPEG, JSON, CSV or text.")],
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print each whole answer as one line of JSON.")
    ] = False,
    model: Model = "",
    grpc: Annotated[bool, typer.Option("--grpc", help="Ask over gRPC, at 'server.grpc_port'.")] = False,
) -> None:
    """Ask the running server about each FILE."""
    import json

    from serving.endpoint import RequestError

    failed = False
    with _connected(model, grpc) as client:
        for file in files:
            try:
                answer = _ask(client.predict, file)
            except RequestError as error:
                failed = True
                hint = "" if error.reached else "; 'make serve' starts the server"
                typer.echo(f"{file}: {error}{hint}", err=True)
                continue
            except OSError as error:
                failed = True
                typer.echo(f"{file}: {error.strerror}", err=True)
                continue
            if json_lines:
                typer.echo(json.dumps({"file": str(file), **answer}))
                continue
            many = "predictions" in answer
            for at, each in enumerate(answer["predictions"] if many else [answer]):
                row = f" row {at}" if many else ""
                typer.echo(f"{file}{row}: {told(each)}model {answer['model_version']})")
    if failed:
        raise typer.Exit(1)


def explain(
    file: Annotated[Path, typer.Argument(help="A request file: PNG, JPEG, JSON, CSV or text.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The picture to write; FILE's name with -explained.png else.")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="The class or value to explain; the answer itself else.")
    ] = "",
    model: Model = "",
) -> None:
    """Show what the running server's answer about FILE depends on."""
    from pipeline.explaining import draw, headline, strongest
    from serving.endpoint import RequestError

    picture = out or Path(f"{file.stem}-explained.png")
    try:
        with _connected(model) as client:
            found = _ask(lambda *given: client.explain(*given, target or None), file)
        typer.echo(f"{file}: {headline(found)}")
        for name, score in strongest(found):
            typer.echo(f"  {score:+.4f}  {name}")
        if not strongest(found):
            typer.echo("  no single part of it changes the answer when it is hidden")
        draw(found, file.read_bytes(), picture)
    except RequestError as error:
        fail(f"{file}: {error}")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        fail(f"{picture}: {error}")
    typer.echo(f"  drawn in {picture}")


def _connected(model: str, grpc: bool = False) -> Any:
    """A client of the running server, or one message and the end."""
    from pipeline.served import client, grpc_client
    from serving.endpoint import RequestError
    from serving.settings import ServerError

    try:
        return (grpc_client if grpc else client)(model or None)
    except RequestError as error:
        fail(error if grpc else f"{error}; 'make serve' starts the server")
    except (ServerError, UserError) as error:
        fail(error)


def _ask(asked: Callable[[bytes, str], dict[str, Any]], file: Path) -> dict[str, Any]:
    return asked(file.read_bytes(), CONTENT_TYPES.get(file.suffix.lower(), "application/octet-stream"))


def told(answer: dict[str, Any]) -> str:
    """An answer in a few words, with a bracket left open."""
    if "image" in answer:
        return f"{answer['label']}  (seed {answer['seed']}, a PNG of {len(answer['image']) * 3 // 4} bytes, "
    if "label" in answer:
        return f"{answer['label']}  ({answer['probabilities'][answer['label']]:.4f}, "
    if "anomaly" in answer:
        return f"{'anomaly' if answer['anomaly'] else 'normal'}  (score {answer['score']:.3f}, "
    return ", ".join(f"{name} {value:.5g}" for name, value in answer["values"].items()) + "  ("
