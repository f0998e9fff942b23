"""Try a version beside what serves, and give the labels that come back: `fairlead serve canary`, `... feedback`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.common import fail
from pipeline.commands.serve import say, told

if TYPE_CHECKING:
    from rich.table import Table

KEPT_AS_IT_IS = 3  # exit code of a trial that ended otherwise than with a promotion
Share = Annotated[
    float,
    typer.Option(
        min=0.001, max=1.0, help="Of all requests, for the challenger (at most 0.5) or copied to it."
    ),
]


def canary(
    version: Annotated[
        str, typer.Argument(help="Number in the registry, or digest; the champion unless it is given.")
    ] = "",
    share: Share = 0.1,
    minutes: Annotated[float, typer.Option(min=0.05, max=10_080, help="Longest duration.")] = 30.0,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Copy requests; the challenger answers nobody.")
    ] = False,
    min_requests: Annotated[int, typer.Option(min=20, help="Of each arm, before a promotion.")] = 500,
    min_labels: Annotated[int, typer.Option(min=0, help="Of each arm, before a promotion.")] = 0,
    timeout_ms: Annotated[
        int, typer.Option(min=5, max=60_000, help="Longest wait for the challenger.")
    ] = 500,
    alpha: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Chance of a wrong decision.")] = 0.05,
    error_margin: Annotated[
        float, typer.Option(min=1e-4, max=1, help="More failures for each request.")
    ] = 0.01,
    latency_margin: Annotated[float, typer.Option(min=0.01, max=100, help="Longer p95, as a share.")] = 0.25,
    quality_margin: Annotated[
        float,
        typer.Option(min=1e-4, max=10, help="More wrong labels for each request; larger error, as a share."),
    ] = 0.02,
    name: Annotated[
        str, typer.Option("--name", help="The model; the project's own unless it is given.")
    ] = "",
    status: Annotated[bool, typer.Option("--status", help="Show the newest trial, and start none.")] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="End the trial that runs; the champion stays.")
    ] = False,
) -> None:
    """Try a promoted version on a share of the requests, and keep the better of the two.

    It ends by itself: promoted (exit code 0), or rolled back, inconclusive or withdrawn (3). Ctrl-C withdraws it.
    """
    with told():
        if status:
            _status()
            return
        if stop:
            from pipeline.canary_endpoint import stop as end_it

            record = end_it(say)
            typer.echo(f"{record['challenger']} of {record['model']}: {record['end']}")
            return
        if share > 0.5 and not shadow:
            fail(
                f"--share {share:g}: expected at most 0.5, since as many requests are the champion's to compare with"
            )
        from pipeline.canary_observed import Margins
        from pipeline.canary_record import Plan

        plan = Plan(
            mode="shadow" if shadow else "canary",
            share=share,
            minutes=minutes,
            min_requests=min_requests,
            min_labels=min_labels,
            timeout_ms=timeout_ms,
            margins=Margins(alpha, error_margin, latency_margin, quality_margin),
        )
        _watched(plan, name or None, version or None)


def feedback(
    file: Annotated[
        Path, typer.Argument(help="CSV with the columns request_id and label, or a column a target.")
    ],
) -> None:
    """Give the labels that came back; a canary, running or to come, judges quality by them."""
    with told():
        from pipeline.canary_labels import add_labels, read_feedback
        from pipeline.canary_observed import Observations
        from pipeline.canary_record import latest
        from pipeline.served import FOLDER

        labels = read_feedback(file)
        if not labels:
            fail(f"{file}: there is no row below the header")
        add_labels(FOLDER, labels)
        found = latest(FOLDER)
        known = 0
        if found:
            seen = Observations(found[0])
            seen.read()
            known = len(
                {each["id"] for each in labels}
                & {name for arm in seen.arms.values() for name in arm.requests}
            )
        typer.echo(f"{len(labels)} labels kept; the newest canary saw {known} of these requests")


def _watched(plan: Any, name: str | None, version: str | None) -> None:
    from rich.console import Console
    from rich.live import Live

    from pipeline.canary_endpoint import run

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:

        def report(step: str) -> None:
            console.print(f"  {step}", markup=False)

        def show(look: Any) -> None:
            if console.is_terminal:
                live.update(
                    _table(look.plain(), f"{look.elapsed:.0f} s of {plan.minutes * 60:.0f}"), refresh=True
                )

        end, look = run(report, show, plan, name, version)
        live.update(_table(look.plain(), f"{look.elapsed:.0f} s"), refresh=True)
    typer.echo(f"{end}: {look.reason}")
    if end != "promoted":
        raise typer.Exit(KEPT_AS_IT_IS)


def _status() -> None:
    from rich.console import Console

    from pipeline.canary_record import latest
    from pipeline.served import FOLDER

    found = latest(FOLDER)
    if found is None:
        fail("there was no canary yet")
    record = found[1]
    Console(highlight=False).print(_table(record["look"], f"{record['look']['elapsed']:.0f} s"))
    state = record["end"] or f"under way (pid {record['pid']})"
    plan = record["plan"]
    typer.echo(
        f"{plan['mode']} of {plan['share']:g}: {record['model']} {record['challenger']} beside {record['champion']}\n"
        f"{state}: {record['look']['reason']}"
    )


def _table(look: dict[str, Any], caption: str) -> Table:
    """A look at a trial, as its record says it."""
    from rich import box
    from rich.table import Table

    table = Table("", "champion's control", "challenger", "worse by", box=box.SIMPLE_HEAD, caption=caption)
    said = {each["name"]: _interval(each) for each in look["criteria"]}
    arms = ("control", "challenger")
    counts = [look["requests"][arm] for arm in arms]
    table.add_row("requests", *(str(each.get("ok", 0) + each.get("failed", 0)) for each in counts))
    table.add_row("failed", *(str(each.get("failed", 0)) for each in counts), said.get("errors", ""))
    table.add_row(
        "p50, p99 ms", *(_milliseconds(look["milliseconds"][arm]) for arm in arms), said.get("latency", "")
    )
    if any(look["labelled"].values()):
        table.add_row("labels", *(str(look["labelled"][arm]) for arm in arms), said.get("quality", ""))
    if look["agreed"][1]:
        table.add_row("the same answer", "", f"{look['agreed'][0]} of {look['agreed'][1]}")
    if look["dropped"]:
        table.add_row("copies dropped", "", str(look["dropped"]))
    for fault, count in look["faults"].items():
        table.add_row(f"  {fault}", "", str(count))
    return table


def _milliseconds(found: list[float] | None) -> str:
    return f"{found[0]:.2f}, {found[1]:.2f}" if found else "-"


def _interval(criterion: dict[str, Any]) -> str:
    low, high = ("?" if each is None else f"{each:+.3g}" for each in (criterion["low"], criterion["high"]))
    return (
        f"{criterion['value']:+.3g} ({low} to {high}, margin {criterion['margin']:g}) {criterion['verdict']}"
    )
