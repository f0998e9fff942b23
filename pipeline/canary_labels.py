"""The labels that come back, and how far an answer is off."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.params import UserError
from serving.worker.trial_log import FOLDER

LABELS = "labels.jsonl"
TRUE = {"1": True, "true": True, "anomaly": True, "0": False, "false": False, "normal": False}


def missed(said: Any, label: Any) -> float | bool | None:
    """How far an answer is off: wrong or not, or its mean absolute error; None where the label does not fit it."""
    if isinstance(said, bool):
        truth = TRUE.get(str(label).strip().lower())
        return None if truth is None else said != truth
    if isinstance(said, dict):
        given = label if isinstance(label, dict) else dict.fromkeys(said, label) if len(said) == 1 else {}
        try:
            off = float(np.mean([abs(float(given[name]) - value) for name, value in said.items()]))
        except (KeyError, TypeError, ValueError):
            return None
        return off if np.isfinite(off) else None
    return None if said is None else str(said) != str(label)


def read_feedback(path: Path) -> list[dict[str, Any]]:
    """Labels from a CSV with the columns `request_id` and `label` (or one column for each of several targets).

    Raises:
        UserError: the file, or a row of it, is not that.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            columns = list(rows.fieldnames or [])
            if "request_id" not in columns or len(columns) < 2 or len(set(columns)) < len(columns):
                raise UserError(
                    f"{path}: expected a header with the columns request_id and label (or request_id and one column "
                    f"for each target), found {', '.join(columns) or 'nothing'}"
                )
            return [_row(path, rows.line_num, row) for row in rows]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV in UTF-8: {error}") from None


def add_labels(state: Path, labels: list[dict[str, Any]]) -> None:
    """Keep labels for every trial, running or to come; the latest of a request counts."""
    folder = state / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = "".join(json.dumps(label) + "\n" for label in labels)
    with (folder / LABELS).open("a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _row(path: Path, line: int, row: dict[str, Any]) -> dict[str, Any]:
    name = row.pop("request_id")
    if None in row or None in row.values() or not name:
        raise UserError(
            f"{path}, line {line}: expected a request id and {len(row)} more columns, found {row}"
        )
    return {"id": name, "label": row["label"] if list(row) == ["label"] else row}
