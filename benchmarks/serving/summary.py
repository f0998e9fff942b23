"""What the figures of a run come to: percentiles, ratios of rounds, and a table in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
# Ours, two workers, 32 connections: at least so many times the other's requests a second.
TARGETS = {"torchserve": 30.0, "fastapi": 1.5, "litserve": 4.0}
LONE_MS = 2.0  # and p50 of a lone client at most so much above FastAPI's
CLOSED, OPEN = "closed ", "open "  # and the connections, or the requests a second
BUSY, LONE = "closed 32", "closed 1"
Rounds = dict[str, dict[str, list[dict[str, Any]]]]  # by side, then by load


def percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """Percentiles in milliseconds; None for one that fewer than ten answers lie above."""
    values = np.asarray(seconds, np.float64) * 1000
    return {
        name: float(np.quantile(values, share)) if len(values) * (1 - share) >= 10 else None
        for name, share in QUANTILES.items()
    }


def summed(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One load over all its rounds: medians of what was measured by round, percentiles of all latencies together."""
    errors: dict[str, int] = {}
    for each in rounds:
        for why, count in each["errors"].items():
            errors[why] = errors.get(why, 0) + count
    return {
        "requests a second": statistics.median(each["rate"] for each in rounds),
        "requests a second, by round": [each["rate"] for each in rounds],
        "latency, ms": percentiles([latency for each in rounds for latency in each["latencies"]]),
        "CPU ms a request": statistics.median(each["cpu"] for each in rounds),
        "generator's CPU ms a request": statistics.median(each["generator"] for each in rounds),
        "answers": sum(each["answered"] for each in rounds),
        "errors": errors,
    }


def ratio(rounds: Rounds, other: str, load: str = BUSY) -> float | None:
    """Ours over another side, as the median of the rounds' ratios; None where one of them was not measured."""
    pairs = zip(rounds.get("ours", {}).get(load, []), rounds.get(other, {}).get(load, []), strict=False)
    ratios = [own["rate"] / theirs["rate"] for own, theirs in pairs if theirs["rate"]]
    return statistics.median(ratios) if ratios else None


def verdicts(rounds: Rounds) -> dict[str, Any]:
    """The targets, what was measured, and whether it is enough."""
    found: dict[str, Any] = {}
    for other, wanted in TARGETS.items():
        got = ratio(rounds, other)
        found[f"ours over {other}, {BUSY}"] = judged(
            got, wanted, got is not None and got >= wanted, "at least"
        )
    lone = [
        summed(rounds[side][LONE])["latency, ms"]["p50"] if rounds.get(side) else None
        for side in ("ours", "fastapi")
    ]
    apart = lone[0] - lone[1] if None not in lone else None
    found["p50 of a lone client, ms above fastapi"] = judged(
        apart, LONE_MS, apart is not None and apart <= LONE_MS, "at most"
    )
    return found


def judged(got: float | None, wanted: float, enough: bool, sense: str) -> str:
    """A line such as `1.93 (target: at least 1.5; met)`."""
    if got is None:
        return "not measured"
    return f"{got:.2f} (target: {sense} {wanted:g}; {'met' if enough else 'MISSED'})"


def table(sides: dict[str, Any]) -> str:
    """Every side's main figures, in Markdown; CPU at 32 connections, memory after all loads."""
    loads = list(dict.fromkeys(load for side in sides.values() for load in side.get("loads", ())))
    closed, opened = ([load for load in loads if load.startswith(kind)] for kind in (CLOSED, OPEN))
    heads = ["side", *(f"req/s at {load.removeprefix(CLOSED)}" for load in closed)]
    heads += ["p50 / p99 / p99.9 ms at 1", "at 32", "CPU ms a request", "PSS MiB", "start s"]
    heads += [f"p50 / p99 ms at {load.removeprefix(OPEN)}/s" for load in opened]
    lines = [heads, ["---"] * len(heads)]
    for name, side in sides.items():
        row = [name, side["failed"]] if "failed" in side else _row(name, side, closed, opened)
        lines.append(row + [""] * (len(heads) - len(row)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(name: str, side: dict[str, Any], closed: list[str], opened: list[str]) -> list[str]:
    found = side["loads"]
    row = [name, *(f"{found[load]['requests a second']:,.0f}" for load in closed)]
    row += [_latency(found.get(load), *QUANTILES) for load in (LONE, BUSY)]
    row += [
        f"{found[BUSY]['CPU ms a request']:.2f}",
        f"{side['memory, MiB']['pss']:.0f}",
        f"{side['start, s']:.1f}",
    ]
    return row + [_latency(found.get(load), "p50", "p99") for load in opened]


def _latency(load: dict[str, Any] | None, *which: str) -> str:
    if load is None:
        return "too many"
    shown = (load["latency, ms"][name] for name in which)
    text = " / ".join("-" if each is None else f"{each:.1f}" for each in shown)
    lost = sum(load["errors"].values())
    return f"{text} ({lost} lost)" if lost else text
