"""The project itself: `fairlead ui`, `dashboard`, `check`, `recipe`, `summary`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.common import fail
from pipeline.core.params import UserError


def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Browse the runs in MLflow; Ctrl-C ends it."""
    from pipeline.ui import serve_ui

    try:
        raise typer.Exit(serve_ui(port))
    except UserError as error:
        fail(error)


def dashboard(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: 8090, or a free one.")] = 0,
) -> None:
    """Browse the studies of `tune` in optuna-dashboard; Ctrl-C ends it."""
    from pipeline.dashboard import serve_dashboard

    try:
        raise typer.Exit(serve_dashboard(port))
    except UserError as error:
        fail(error)


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


def summary() -> None:
    """Show the last model's metrics, its verdict, and where to look next."""
    from pipeline.summary import show

    try:
        show()
    except UserError as error:
        fail(error)
