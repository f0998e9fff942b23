"""Run the server and change what it serves: `fairlead serve ...`."""

from __future__ import annotations

import signal
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from pipeline.commands.common import fail, group
from pipeline.core.params import UserError

app = group("Run a server with promoted models, and change what it serves.")
Name = Annotated[str, typer.Option("--name", help="The model; the project's own unless it is given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def say(step: str) -> None:
    """One step on its way."""
    typer.echo(textwrap.indent(step, "  "))


@contextmanager
def told() -> Iterator[None]:
    """What can go wrong with a server in one message; an interruption leaves what served before."""
    from serving.endpoint import RequestError
    from serving.server import ServerError

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (UserError, ServerError, RequestError) as error:
        fail(error)
    except OSError as error:
        fail(f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}")
    except KeyboardInterrupt:
        fail("interrupted; 'fairlead serve status' says what serves")


@app.command()
def up(
    server: Annotated[
        str, typer.Option("--server", help="torchserve or onnx; server.kind unless it is given.")
    ] = "",
) -> None:
    """Start the server with what it served before, or the promoted model; roll a newer one out where it runs."""
    with told():
        from pipeline.endpoint import start
        from serving.servers import SERVERS

        kind = next((each for each in SERVERS if each == server), None)
        if server and kind is None:
            fail(f"there is no server '{server}'; there are {', '.join(SERVERS)}")
        start(say, kind)


@app.command()
def down() -> None:
    """Stop the server and its workers."""
    with told():
        from pipeline.endpoint import down as stop

        typer.echo("stopped" if stop(say) else "no server was running")


@app.command()
def deploy(
    version: Annotated[
        str, typer.Argument(help="Number in the registry, or digest; the champion unless it is given.")
    ] = "",
    name: Name = "",
) -> None:
    """Roll a promoted version out: no request is lost, and a broken one leaves the old serving."""
    with told():
        from pipeline.endpoint import deploy as roll_out

        roll_out(say, name or None, version or None)


@app.command()
def rollback(name: Name = "") -> None:
    """Bring the version back that served before."""
    with told():
        from pipeline.endpoint import rollback as roll_back

        roll_back(say, name or None)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say what is served, where, by how many workers; exit code 1 where nothing is."""
    import json

    with told():
        from pipeline.served import describe
        from pipeline.served import status as found

        state = found()
        if as_json:
            typer.echo(json.dumps(state, indent=2))
            return
        typer.echo(describe())
        _show_versions(state)


@app.command()
def token(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make new tokens; the old ones end at once.")
    ] = False,
) -> None:
    """Say where the tokens are, and change them without a restart."""
    with told():
        from pipeline.core.params import section
        from pipeline.served import FOLDER
        from serving.endpoint import KEY_FILE, read_token
        from serving.settings import ServerSettings
        from serving.tokens import rotate as change

        if rotate:
            change(FOLDER, section("server", ServerSettings).token_minutes)
        read_token(FOLDER)
        typer.echo(f"{'new tokens' if rotate else 'the tokens are'} in {FOLDER / KEY_FILE}")


@app.command()
def history(
    name: Annotated[str, typer.Option("--name", help="One model only.")] = "", as_json: AsJson = False
) -> None:
    """Show every change of what is served: who, when, from, to, and how it went."""
    with told():
        from pipeline.history import read

        changes = [change for change in read() if name in ("", change.model)]
        if as_json:
            for change in changes:
                typer.echo(change.model_dump_json(by_alias=True))
            return
        if not changes:
            typer.echo("nothing was served yet")
            return
        _table(
            ("when (UTC)", "who", "what", "model", "from", "to", "registry", "how it went"),
            [
                (
                    change.at[:19].replace("T", " "), change.who, change.action, change.model,
                    change.before or "-", change.after or "-",
                    change.receipt.registry_version if change.receipt else "-",
                    change.reason or ("done" if change.ok else "failed"),
                )
                for change in changes
            ],
        )  # fmt: skip


@app.command()
def logs(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of each log.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Print the end of the server's logs."""
    from pipeline.served import FOLDER
    from serving.logs import follow as going_on
    from serving.logs import last

    shown = last(FOLDER, lines)
    if not shown:
        fail(f"no server was started here (there is no log in {FOLDER})")
    for path, ending in shown.items():
        typer.echo(f"==> {path.name}")
        for line in ending:
            typer.echo(line)
    if follow:
        try:
            going_on(FOLDER, typer.echo)
        except KeyboardInterrupt:
            return


def _show_versions(state: dict[str, object]) -> None:
    models = state["models"]
    assert isinstance(models, dict)
    rows = [
        (
            name,
            version,
            "default" if version == model["default"] else "beside",
            f"{found['ready']} of {found['workers']}",
            str(found["waiting"]),
        )
        for name, model in models.items()
        for version, found in model["versions"].items()
    ]
    _table(("model", "version", "", "workers ready", "requests waiting"), rows)


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)
