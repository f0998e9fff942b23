"""What the workers wrote of a trial, as it grows, with the labels that came back, and what both say."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.canary_labels import LABELS, missed
from pipeline.canary_statistics import Criterion, means, pairs, quantiles, rates

OVERHEAD = (
    2.0  # milliseconds that a server adds to every pass: a tenth of a millisecond more is no harm to anybody
)
EVERY = 0.1  # seconds: of an arm's passes one in each, as neighbours share what slowed them
Arm = Literal["control", "challenger"]
ARMS: tuple[Arm, Arm] = ("control", "challenger")


@dataclass(frozen=True)
class Margins:
    """What is tolerated, and how sure one must be.

    Args:
        alpha: chance that an equal challenger is ever rolled back, and that one at a margin is promoted.
        errors: more failures for each request.
        latency: longer 95th percentile, as a share of the champion's.
        quality: more wrong labels for each request, or larger absolute error as a share of the champion's.
    """

    alpha: float = 0.05
    errors: float = 0.01
    latency: float = 0.25
    quality: float = 0.02


@dataclass
class Seen:
    """One arm: each request's outcome and what was answered (the first time that its id was seen), and the passes."""

    requests: dict[str, tuple[str, Any]] = field(default_factory=dict)
    passes: list[tuple[int, float]] = field(default_factory=list)  # rows, milliseconds
    moments: set[int] = field(default_factory=set)

    def counts(self) -> Counter[str]:
        """How many requests ended how: ok, refused, failed, lost."""
        return Counter(outcome.split(":")[0] for outcome, _ in self.requests.values())

    def faults(self) -> Counter[str]:
        """Why requests failed."""
        failed = (outcome for outcome, _ in self.requests.values() if outcome.startswith("failed"))
        return Counter(outcome.partition(": ")[2] for outcome in failed)


class Observations:
    """Reads a trial's folder again and again, only what is new each time.

    Args:
        folder: the trial's own, below `canary/` of the state folder, beside the labels.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.arms: dict[Arm, Seen] = {"control": Seen(), "challenger": Seen()}
        self.labels: dict[str, Any] = {}
        self._dropped: dict[Path, int] = {}

    @property
    def dropped(self) -> int:
        """Copies that a shadow missed because it lags behind."""
        return sum(self._dropped.values())

    def read(self) -> None:
        """Take in what was written since."""
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in self._new(path):
                self._take(path, line)
        for line in self._new(self._folder.parent / LABELS):
            self.labels[str(line["id"])] = line["label"]

    def _new(self, path: Path) -> list[dict[str, Any]]:
        """Whole lines behind what was read; half a line waits for the next time."""
        try:
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        found = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # a line that a full disk cut short
                found.append(json.loads(line))
        return found

    def _take(self, path: Path, line: Mapping[str, Any]) -> None:
        seen = self.arms[line["arm"]]
        for name, outcome, said in line["requests"]:
            seen.requests.setdefault(name, (outcome, said))
        self._dropped[path] = line.get("dropped", self._dropped.get(path, 0))
        moment = int(line["at"] / EVERY)
        if line["step"] and moment not in seen.moments:
            seen.moments.add(moment)
            seen.passes.append((line["step"][1], line["step"][2]))

    # --- what it says

    def criteria(self, margins: Margins) -> list[Criterion]:
        """Errors and latency, and quality where labels came; a harm must be surer, as there are several to look for."""
        made = [self._errors(margins), self._latency(margins)]
        quality = self._quality(margins)
        return [*made, quality] if quality else made

    def agreement(self) -> tuple[int, int]:
        """In a shadow: of how many requests that both answered, on how many they say the same label."""
        mine, other = (self.arms[arm].requests for arm in ARMS)
        both = [
            (mine[name][1], other[name][1])
            for name in mine.keys() & other.keys()
            if mine[name][0] == other[name][0] == "ok"
        ]
        return sum(_alike(*each) for each in both), len(both)

    def labelled(self) -> dict[Arm, int]:
        """How many good answers of each arm have a label."""
        return {
            arm: sum(
                name in self.labels and outcome == "ok"
                for name, (outcome, _) in self.arms[arm].requests.items()
            )
            for arm in ARMS
        }

    def milliseconds(self, arm: Arm) -> np.ndarray:
        """Of each pass that is judged, (N,)."""
        return np.array([took for _, took in self.arms[arm].passes])

    def _errors(self, margins: Margins) -> Criterion:
        events = [
            (counts["failed"], counts["failed"] + counts["ok"])
            for counts in (self.arms[arm].counts() for arm in ARMS)
        ]
        return _criterion("errors", lambda alpha: rates(events[0], events[1], alpha), margins.errors, margins)

    def _latency(self, margins: Margins) -> Criterion:
        """Ratio of the 95th percentiles less one, each pass measured by what the champion needs for so many rows."""
        control, challenger = (self.arms[arm].passes for arm in ARMS)
        usual = _usual(control or challenger)
        relative = [
            np.array([(OVERHEAD + took) / (OVERHEAD + usual(rows)) for rows, took in each])
            for each in (control, challenger)
        ]

        def compared(alpha: float) -> tuple[float, float, float]:
            value, low, high = quantiles(relative[0], relative[1], alpha)
            return value - 1, low - 1, high - 1

        return _criterion("latency", compared, margins.latency, margins, harm=margins.latency)

    def _quality(self, margins: Margins) -> Criterion | None:
        """Wrong labels, or absolute errors; of pairs where both answered the same requests."""
        wrong = {arm: self._misses(arm) for arm in ARMS}
        if not all(wrong.values()):
            return None
        shared = sorted(wrong["control"].keys() & wrong["challenger"].keys())
        numeric = any(isinstance(each, float) for each in wrong["control"].values())
        paired = len(shared) >= min(map(len, wrong.values())) / 2
        names = {arm: shared if paired else sorted(wrong[arm]) for arm in ARMS}
        champion, challenger = (np.array([wrong[arm][name] for name in names[arm]], float) for arm in ARMS)

        def compared(alpha: float) -> tuple[float, float, float]:
            if numeric:
                usual = max(float(champion.mean()), 1e-12)
                found = means(champion / usual, challenger / usual, margins.quality, alpha, paired)
                return float(found[0]), float(found[1]), float(found[2])
            if paired:
                worse, better = int((challenger > champion).sum()), int((champion > challenger).sum())
                return pairs(worse, better, len(champion), alpha)
            events = [(int(each.sum()), len(each)) for each in (champion, challenger)]
            return rates(events[0], events[1], alpha)

        return _criterion("quality", compared, margins.quality, margins)

    def _misses(self, arm: Arm) -> dict[str, float | bool]:
        """By request with a label: was the answer wrong, or how far off was it."""
        found: dict[str, float | bool] = {}
        for name, (outcome, said) in self.arms[arm].requests.items():
            if outcome == "ok" and name in self.labels:
                miss = missed(said, self.labels[name])
                if miss is not None:
                    found[name] = miss
        return found


def _alike(one: Any, other: Any) -> bool:
    """The same label, or values within a hundredth of each other."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            abs(one[name] - other[name]) <= 0.01 * max(abs(one[name]), abs(other[name])) for name in one
        )
    return bool(one == other)


def _usual(passes: list[tuple[int, float]]) -> Any:
    """The median time of a pass by its rows, between and beyond those seen by the nearest."""
    by_rows: dict[int, list[float]] = {}
    for rows, took in passes:
        by_rows.setdefault(rows, []).append(took)
    known = sorted(by_rows) or [1]
    medians = [float(np.median(by_rows.get(rows, [0.0]))) for rows in known]
    return lambda rows: float(np.interp(rows, known, medians))


def _criterion(name: str, compared: Any, margin: float, margins: Margins, harm: float = 0.0) -> Criterion:
    value, _, high = compared(margins.alpha)
    return Criterion(name, value, compared(margins.alpha / 3)[1], high, margin, harm)
