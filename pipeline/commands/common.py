"""What every command shares."""

from __future__ import annotations

from typing import NoReturn

import typer


def group(about: str) -> typer.Typer:
    """A group of commands that prints its help when it is called alone."""
    return typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=about)


def fail(message: object) -> NoReturn:
    """One message, exit code 1, no traceback."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)
