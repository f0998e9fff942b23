"""What running trials reported, in a file each, so that a kill of whatever loses no epoch and counts none twice."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pipeline.tuning.task import Report

Key = tuple[int, int]  # fold and epoch


class Curves:
    """Reports by trial; those of a trial that ended stay on disk until `drop`, when its run is logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.live: dict[int, dict[Key, Report]] = {}

    def open(self, number: int) -> None:
        """Begin with a trial, or go on with it."""
        self.live[number] = read(self._file(number))

    def add(self, number: int, report: Report) -> None:
        """Keep a report; of one that is told again, as after a kill, the first counts."""
        key = (report.fold, report.epoch)
        if key in self.live[number]:
            return
        self.live[number][key] = report
        path = self._file(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(asdict(report)) + "\n")

    def told(self, number: int) -> int:
        """Epochs that a running trial told, over all sessions."""
        return len(self.live[number])

    def spent(self, number: int) -> dict[str, float]:
        """Seconds and joules of a running trial, over all sessions."""
        reports = self.live[number].values()
        return {
            "seconds": sum(each.seconds for each in reports),
            "joules": sum(each.joules for each in reports),
        }

    def close(self, number: int) -> list[dict[str, float]]:
        """The epochs' metrics of a trial that ended."""
        return metrics(self.live.pop(number))

    def kept(self, number: int) -> list[dict[str, float]]:
        """The epochs' metrics of an ended trial whose run is not logged; empty for any other."""
        return metrics(read(self._file(number)))

    def drop(self, number: int) -> None:
        """Forget a trial."""
        self._file(number).unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.jsonl"


def read(path: Path) -> dict[Key, Report]:
    """The reports in a file, up to a line that was cut short or damaged: that and what follows is told again."""
    found: dict[Key, Report] = {}
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for at, line in enumerate(lines):
        try:
            report = Report(**json.loads(line)) if line.endswith(b"\n") else None
        except (ValueError, TypeError):
            report = None
        if report is None:
            path.write_bytes(b"".join(lines[:at]))
            break
        found[report.fold, report.epoch] = report
    return found


def metrics(reports: dict[Key, Report]) -> list[dict[str, float]]:
    """What was measured in each epoch, folds one after the other."""
    return [reports[key].metrics for key in sorted(reports)]
