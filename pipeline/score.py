"""Batch scoring without a server: parts that workers score and a kill leaves whole, put together in order at the end.

Beside OUT lie, while it is made, `OUT.parts/` with the plan, the bundle and the finished parts, and afterwards
`OUT.json`, the receipt, which says of which input, model and settings OUT is the result.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tqdm import tqdm

from pipeline.core.params import UserError
from pipeline.engine import mapping as engine
from pipeline.score_inputs import Part
from pipeline.score_merge import merge
from pipeline.score_plan import Asked, identify, locked, made, plan, stamp, tidied
from pipeline.score_work import Job, Outcome, finished, place_of, score_part
from serving.inputs.spec import read_json, write_json

SUFFIXES = (".parquet", ".csv")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def score(asked: Asked, report: Callable[[str], None]) -> dict[str, Any]:
    """Score, going on from what is finished; give the receipt.

    Raises:
        UserError: the input or the output cannot be used, or a sample cannot and that is to stop it.
    """
    check(asked)
    asked.parts.mkdir(parents=True, exist_ok=True)
    with locked(asked), tidied(asked):
        identity = identify(asked, report)
        if (done := made(asked, identity)) and not asked.force:
            shutil.rmtree(asked.parts)
            report(f"{asked.out} is this very result already; nothing to do")
            return done
        parts, job = plan(asked, identity, report)
        outcomes = run(asked, job, parts, report)
        if identify(asked, lambda _: None) != identity:
            raise UserError(f"{asked.path} changed while it was scored; run the command again")
        total = {
            "samples": sum(each.samples for each in outcomes), "wrong": sum(each.wrong for each in outcomes),
            "first_reason": next((each.reason for each in outcomes if each.reason), ""),
        }  # fmt: skip
        fresh = asked.out.with_name(f".{asked.out.name}.new")
        merge([place_of(asked.parts, part.number) for part in parts], fresh, asked.out.suffix.lower())
        fresh.replace(asked.out)
        receipt = {
            **identity, **total, "out": stamp(asked.out),
            "scored": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        write_json(asked.receipt, receipt)
        shutil.rmtree(asked.parts)
    return receipt


def check(asked: Asked) -> None:
    """Refuse what cannot go well, and an OUT that is not ours to replace."""
    if not asked.path.exists():
        raise UserError(f"{asked.path} does not exist; expected a file or a folder")
    if asked.out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out: {asked.out} must end in {' or '.join(SUFFIXES)}")
    if asked.out.resolve() == asked.path.resolve():
        raise UserError(f"--out: {asked.out} is the input itself")
    if asked.out.is_dir():
        raise UserError(f"--out: {asked.out} is a folder")
    if asked.path.is_dir() and asked.out.resolve().is_relative_to(asked.path.resolve()):
        raise UserError(
            f"--out: {asked.out} lies inside the input, which would change by it; put it elsewhere"
        )
    if not asked.out.parent.is_dir():
        raise UserError(f"--out: the folder {asked.out.parent} does not exist")
    if asked.out.exists() and not asked.force:
        try:
            ours = read_json(asked.receipt)["out"] == stamp(asked.out)
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if (
            not ours and not (asked.parts / "plan.json").exists()
        ):  # a run that was killed may have replaced it
            raise UserError(
                f"--out: {asked.out} exists and is not what this command wrote; --force replaces it"
            )


def run(asked: Asked, job: Job, parts: list[Part], report: Callable[[str], None]) -> list[Outcome]:
    """Score the parts that are not finished, on processes or on Ray; the outcomes of all, in order."""
    known = {each.number: each for each in finished(asked.parts, parts)}
    total = sum(part.samples for part in parts)
    done = sum(each.samples for each in known.values())
    if known:
        report(f"going on: {done:,} of {total:,} are scored already")
    left = [part for part in parts if part.number not in known]
    work = partial(score_part, job)
    workers = max(1, min(asked.workers, len(left)))
    stream = (
        engine.on_processes(work, left, workers)
        if asked.ray is None
        else engine.on_ray(work, left, asked.ray)
    )
    with tqdm(total=total, initial=done, desc="score", unit="", unit_scale=True) as bar:
        for outcome in stream:
            known[outcome.number] = outcome
            bar.update(outcome.samples)
            if wrong := sum(each.wrong for each in known.values()):
                bar.set_postfix_str(f"{wrong:,} could not be scored")
    return [known[part.number] for part in parts]
