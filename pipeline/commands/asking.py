"""Ask the running server: `fairlead predict`."""

from __future__ import annotations

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


def predict(
    files: Annotated[list[Path], typer.Argument(help="Request files: PNG, JPEG, JSON, CSV or text.")],
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print each whole answer as one line of JSON.")
    ] = False,
    model: Annotated[
        str,
        typer.Option("--model", help="Which model, where the server has several; the project's own else."),
    ] = "",
) -> None:
    """Ask the running server about each FILE."""
    import json

    from pipeline.endpoint import client as connect
    from serving.client import RequestError
    from serving.config import ServerError

    failed = False
    try:
        client = connect(model or None)
    except RequestError as error:
        fail(f"{error}; 'make serve' starts the server")
    except (ServerError, UserError) as error:
        fail(error)
    with client:
        for file in files:
            try:
                answer = client.predict(
                    file.read_bytes(), CONTENT_TYPES.get(file.suffix.lower(), "application/octet-stream")
                )
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
