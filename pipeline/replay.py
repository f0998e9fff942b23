"""Makes a version again from what its run kept, in a scratch clone, and says whether it came out the same.

The commit is checked out, changes that were not committed are applied, `params.yaml` is the run's. Raw data are the
project's where they are those that `dvc.lock` records, else `data/ingest` comes from DVC's cache or remote by its
digest. What `tune` found is taken from the run: a search ends by the clock, so another machine tries another number of
trials; `search` makes the recorded number of them anew. Every stage is computed, none taken from DVC's run cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline import mlflow_store, origin
from pipeline.core.params import UserError, section
from pipeline.core.project import Name
from pipeline.replay_clone import clone, command, lay_data, scratch, shown, write_params
from pipeline.versions import find, run_of

Until = Literal["train", "evaluate"]
LOCK = "promote/dvc.lock"
FACTS = """
import json
from pathlib import Path
from pipeline.export import version_of
from pipeline.origin import machine
print(json.dumps({"version": version_of(Path("data/train")), "machine": machine()}))
"""


@dataclass(frozen=True)
class Recorded:
    """What a run kept of a version."""

    name: str
    number: str
    version: str
    commit: str
    machine: str
    files: Mapping[str, str]  # by their place in the run
    patch: bytes
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a replay came to; `place` is the clone where it was kept."""

    same: bool
    verdict: str
    version: str
    metrics: Mapping[str, Mapping[str, Any]]
    place: Path | None = None


def recorded(name: str, word: str, folder: Path) -> Recorded:
    """What is known of a version, checked against the digests in the tags of its run.

    Raises:
        UserError: it is not known, or its run lacks what a replay needs, or something was changed since.
    """
    version = find(name, word)[0]
    tags = run_of(version).data.tags
    commit, number = tags.get("mlflow.source.git.commit", "none"), version.version

    def fetched(place: str) -> bytes:
        try:
            return mlflow_store.download(f"runs:/{version.run_id}/{place}", folder).read_bytes()
        except UserError:
            return b""

    if commit == "none":
        raise UserError(
            f"version {number} was trained outside of a git repository; there is no commit to check out"
        )
    patch = fetched(origin.PATCH)
    if tags.get("git.modified") == "true" and not patch:
        raise UserError(
            f"version {number} was trained with uncommitted changes to {commit[:12]}, and its run has no patch of "
            "them, so the code that made it is lost. Commit before training"
        )
    places = (
        "params.yaml",
        origin.BEST,
        origin.ENVIRONMENT,
        LOCK,
        "promote/receipt.json",
        "evaluate/metrics.json",
    )
    files = {place: fetched(place) for place in places}
    if lacks := [place for place in ("params.yaml", origin.BEST) if not files[place]]:
        raise UserError(f"the run of version {number} has no {lacks[0]}: it is from before runs kept it")
    receipt = json.loads(files["promote/receipt.json"] or b"{}")
    digests = {
        "params.yaml": tags.get("params.sha256"), origin.BEST: tags.get("best.sha256"),
        origin.PATCH: tags.get("git.patch.sha256"), LOCK: receipt.get("lineage", {}).get("dvc.lock.sha256"),
    }  # fmt: skip
    for place, content in {**files, origin.PATCH: patch}.items():
        digest = digests.get(place)
        if content and digest and hashlib.sha256(content).hexdigest() != digest:
            raise UserError(
                f"{place} of run {version.run_id} was changed since: its SHA-256 is not the recorded {digest[:12]}..."
            )
    return Recorded(
        name, str(number), version.tags.get("model_version", ""), commit, tags.get("machine", "not recorded"),
        {place: content.decode() for place, content in files.items()}, patch,
        json.loads(files["evaluate/metrics.json"] or b"{}"),
    )  # fmt: skip


def judged(wanted: Recorded, facts: Mapping[str, Any], metrics: Mapping[str, Any]) -> Outcome:
    """The verdict: the same bits; or, on another type of machine, every metric within its interval."""
    both = {
        name: {**entry, "replayed": metrics[name]["value"],
               "within": entry["low"] <= metrics[name]["value"] <= entry["high"]}
        for name, entry in wanted.metrics.items()
        if isinstance(entry, dict) and "low" in entry and name in metrics
    }  # fmt: skip
    found, inside = str(facts["version"]), sum(entry["within"] for entry in both.values())
    about = f"{inside} of {len(both)} metrics lie within their intervals"
    other = f"the machine is another ({facts['machine']}; it was {wanted.machine})"
    if found == wanted.version:
        same, verdict = True, f"the same, bit for bit: version {found}"
    elif wanted.machine == facts["machine"]:
        same = False
        verdict = (
            f"NOT the same: version {found}, on the same type of machine, so bits should be equal; {about}"
        )
    elif not both:
        same, verdict = (
            False,
            f"NOT the same bits, and nothing else to judge by: {other}; replay until evaluate",
        )
    elif inside == len(both):
        same, verdict = True, f"the same within the intervals: {about}; {other}"
    else:
        same, verdict = False, f"NOT the same: {about}; {other}"
    return Outcome(same, verdict, found, both)


def replay(word: str, until: Until, search: bool, keep: bool, report: Callable[[str], None]) -> Outcome:
    """Make a version again and compare; the clone stays where the outcome is another, or it is to be kept.

    Raises:
        UserError: it cannot be made again, and why.
    """
    outcome: Outcome | None = None
    with scratch(lambda: keep or not (outcome and outcome.same)) as folder:
        wanted = recorded(section("name", Name), word, folder)
        changed = " with the changes that its run kept" if wanted.patch else ""
        report(
            f"version {wanted.number} ({wanted.version}) of '{wanted.name}', commit {wanted.commit}{changed}"
        )
        tell_packages(wanted.files[origin.ENVIRONMENT], report)
        project = clone(wanted.commit, wanted.patch, folder)
        best = yaml.safe_load(wanted.files[origin.BEST])
        write_params(project, wanted.files["params.yaml"], best, search)
        stages = lay_data(project, wanted.files[LOCK], report)
        if search:
            stages.insert(stages.index("train"), "tune")
        else:
            (project / "data" / "tune").mkdir(parents=True, exist_ok=True)
            (project / "data" / "tune" / "best.yaml").write_text(wanted.files[origin.BEST])
            report(f"what tune found in {best.get('trials', 0)} trials is taken from the run")
        stages = stages[: stages.index(until) + 1]
        report(f"running {', '.join(stages)}")
        outcome = compared(project, stages, wanted)
    kept = folder.with_name(f"kept-{folder.name}") / project.relative_to(folder)
    return replace(outcome, place=kept if kept.exists() else None)


def compared(project: Path, stages: list[str], wanted: Recorded) -> Outcome:
    """Run stages in the clone and judge what they made; stages that fail are an outcome too."""
    try:
        command(project, "-m", "dvc", "repro", "-f", "-s", "--no-run-cache", "--no-commit", *stages)
        facts = json.loads(command(project, "-c", FACTS, quiet=True))
    except UserError as error:
        return Outcome(False, f"NOT made again: {error}", "", {})
    place = project / "data" / "evaluate" / "metrics.json"
    return judged(wanted, facts, json.loads(place.read_text()) if stages[-1] == "evaluate" else {})


def tell_packages(then: str, report: Callable[[str], None]) -> None:
    """Name the packages whose versions are others than at the training."""
    now = dict(line.split("==", 1) for line in origin.packages())
    old = dict(line.split("==", 1) for line in then.split())
    other = [
        f"{name} {old[name]} then, {now.get(name, 'absent')} now"
        for name in old
        if now.get(name) != old[name]
    ]
    if other:
        report(f"{len(other)} packages are others than then: {shown(other)}")
