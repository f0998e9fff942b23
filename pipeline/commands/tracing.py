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


def replay(
    version: Annotated[str, typer.Argument(help="Registry number, digest (or its beginning) or alias.")],
    until: Annotated[str, typer.Option(help="Last stage that is run: train or evaluate.")] = "evaluate",
    search: Annotated[
        bool,
        typer.Option(
            "--search", help="Run tune too, with as many trials as it had, in place of what it found."
        ),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the clone, whatever comes out.")] = False,
) -> None:
    """Make a version again from its commit, data and parameters, and compare; exit code 1 where it is another."""
    import signal

    from pipeline.replay import replay as replayed

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if until not in ("train", "evaluate"):
            raise UserError(f"--until: expected train or evaluate; found {until!r}")
        done = replayed(version, until, search, keep, lambda step: typer.echo(f"replay: {step}"))  # type: ignore[arg-type]
    except (UserError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted; the clone is removed")
    for name, each in done.metrics.items():
        interval = f"({each['low']:.4g} to {each['high']:.4g})"
        out = "" if each["within"] else "  OUTSIDE"
        typer.echo(f"  {name:20} {each['replayed']:.6g}, was {each['value']:.6g} {interval}{out}")
    if done.place:
        typer.echo(f"the clone is in {done.place}")
    typer.echo(done.verdict)
    if not done.same:
        raise typer.Exit(1)
