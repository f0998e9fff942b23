"""The log of a training: one CSV row an epoch, which survives a kill, and a progress bar."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

EpochHook = Callable[[int, dict[str, float]], None]


class EpochLog:
    """Writes one row an epoch to a CSV file that survives a kill, and hands it to `record`."""

    def __init__(self, path: Path, record: Callable[[dict[str, float], int], None], total: int) -> None:
        self.path, self.record = path, record
        self.rows: list[dict[str, float]] = []
        self.bar = tqdm(total=total, desc="train", unit=" epochs")

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        """Record an epoch; rows that a resumed run repeats take the place of the old ones."""
        if not self.rows:
            self.rows = [row for row in read_log(self.path) if row["epoch"] < epoch]
            self.bar.update(len(self.rows))
        self.rows.append({"epoch": epoch, **metrics})
        fresh = self.path.with_suffix(".new")
        with fresh.open("w", newline="") as file:
            table = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)
        fresh.replace(self.path)
        self.record(metrics, epoch)
        self.bar.update()
        self.bar.set_postfix_str(f"val_loss {metrics['val_loss']:.4f}, val_score {metrics['val_score']:.4f}")


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of an epoch log; none where it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
