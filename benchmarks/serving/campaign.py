"""The whole run: every side is started, checked and warmed up, then all take turns, round after round.

In a closed loop each connection asks again when it was answered; in an open one requests go at times drawn beforehand.
All sides have as many workers; who does not have its turn is held, so that it uses nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.serving import floor, model
from benchmarks.serving.live import Live, SideError
from benchmarks.serving.load import Generator, Load, arrivals
from benchmarks.serving.sides import SIDES, Place, missing
from benchmarks.serving.summary import BUSY, CLOSED, OPEN, Rounds, summed, table, verdicts

WORKERS, OPEN_CONNECTIONS = 2, 64
Loads = dict[str, tuple[int, Callable[[Generator], Load]]]


@dataclass(frozen=True)
class Plan:
    """How long and how often: seconds of a load, rounds, seconds of warm-up (and of Java's), and the loads."""

    seconds: float
    rounds: int
    warm: float
    warm_java: float
    connections: tuple[int, ...] = (1, 8, 32, 64)
    rates: tuple[int, ...] = (200, 1000, 2000)


QUICK = Plan(seconds=1.0, rounds=2, warm=2.0, warm_java=6.0, rates=(200, 1000))
FULL = Plan(seconds=3.0, rounds=3, warm=3.0, warm_java=20.0)


def campaign(names: list[str], plan: Plan, peers: Path) -> dict[str, Any]:
    """Figures of the sides that are named; a side that fails is told with its reason, and the others go on."""
    began = time.perf_counter()
    with TemporaryDirectory(prefix="fairlead-serving-") as place, contextlib.ExitStack() as ends:
        folder = Path(place)
        model.write_model(folder / "model")
        ceiling = floor.ceiling(plan.seconds)
        say(f"the load generator alone: {ceiling['requests a second']:,.0f} requests a second")
        bare = floor.bare(folder / "model/bundle", model.pngs())
        lives, failed = start(names, plan, folder, peers, ends)
        rounds = measured(lives, plan)
        sides = {live.name: figures(live, rounds[live.name]) for live in lives}
    found = {name: sides.get(name) or {"about": SIDES[name].about, "failed": failed[name]} for name in names}
    shown = table(found)
    say("\n" + shown)
    return {
        **verdicts(rounds),
        "seconds": time.perf_counter() - began,
        "workers": WORKERS,
        "rounds": plan.rounds,
        "seconds of a load": plan.seconds,
        "load generator alone": ceiling,
        "floor, microseconds an image": bare,
        "sides": found,
        "table": shown.splitlines(),
    }


def start(
    names: list[str], plan: Plan, folder: Path, peers: Path, ends: contextlib.ExitStack
) -> tuple[list[Live], dict[str, str]]:
    """Start and warm up one side after the other; gives those that live, and why the others do not."""
    pngs, expected = model.pngs(), model.expected(folder / "model/bundle")
    lives: list[Live] = []
    failed: dict[str, str] = {}
    for name in names:
        side, scratch = SIDES[name], folder / name
        try:
            if why := missing(side, peers):
                raise SideError(why)
            live = Live(name, side, Place(folder / "model", scratch, peers, WORKERS), pngs, expected)
            ends.callback(live.end)
            with live.turn():
                seconds = plan.warm_java if side.warm else plan.warm
                live.load(32, lambda generator, seconds=seconds: generator.closed(seconds))
            lives.append(live)
            say(f"{name}: right after {live.start_seconds:.1f} s, {len(pngs)} answers checked, warm")
        except (SideError, ValueError, OSError) as error:
            failed[name] = str(error)
            say(f"{name}: left out, {error}")
    return lives, failed


def loads(plan: Plan, number: int) -> Loads:
    """What a side gets in one round, by name: how many connections, and what to do with them."""
    found: Loads = {
        f"{CLOSED}{connections}": (connections, lambda generator: generator.closed(plan.seconds))
        for connections in plan.connections
    }
    for rate in plan.rates:
        times = arrivals(rate, plan.seconds, seed=1000 * number + rate)
        found[f"{OPEN}{rate}"] = (OPEN_CONNECTIONS, lambda generator, times=times: generator.opened(times))
    return found


def measured(lives: list[Live], plan: Plan) -> Rounds:
    """What each side's rounds gave; who begins a round changes."""
    rounds: Rounds = {live.name: {} for live in lives}
    for number in range(plan.rounds):
        first = number % max(len(lives), 1)
        for live in lives[first:] + lives[:first]:
            with live.turn():
                for load, (connections, work) in loads(plan, number).items():
                    rounds[live.name].setdefault(load, []).append(live.load(connections, work))
            busy = rounds[live.name][BUSY][-1]
            say(
                f"round {number + 1} of {plan.rounds}, {live.name}: {busy['rate']:,.0f} requests a second at 32"
            )
    return rounds


def turn(live: Live, wanted: Loads, rounds: dict[str, list[dict[str, Any]]]) -> None:
    """One side's turn: every load, but no rate above what it just answered at most, as its latency has no end."""
    most = 0.0
    for load, (connections, work) in wanted.items():
        if load.startswith(OPEN) and float(load.removeprefix(OPEN)) > most:
            continue
        seen = live.load(connections, work)
        rounds.setdefault(load, []).append(seen)
        most = max(most, seen["rate"])


def figures(live: Live, rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """All that is told about one side."""
    return {
        "about": live.side.about,
        "start, s": live.start_seconds,
        "memory, MiB": live.memory(),
        "loads": {load: summed(each) for load, each in rounds.items()},
    }


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, flush=True)
