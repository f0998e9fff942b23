"""Where a version or an answer comes from, and to make it again: `fairlead trace`, `fairlead replay`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.common import fail
from pipeline.core.params import UserError


def trace(
    word: Annotated[
        str,
        typer.Argument(
            metavar="VERSION|REQUEST_ID",
            help="Registry number, digest (or its beginning) or alias of a version; or the request_id of an answer.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say where a version, or an answer, comes from: run, commit, data, parameters, metrics, and when it served."""
    import json

    from pipeline.trace import told
    from pipeline.trace import trace as traced

    try:
        facts = traced(word)
    except (UserError, OSError) as error:
        fail(error)
    typer.echo(json.dumps(facts, indent=2, default=str) if as_json else "\n".join(told(facts)))
