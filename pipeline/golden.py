"""Golden requests: raw inputs of test samples, as a client would send them, with the answers to expect."""

from __future__ import annotations

import base64
import csv
import json
from itertools import cycle
from pathlib import Path

import numpy as np

from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.sources import Data, open_source
from serving.inputs.decode import BadInput, decode
from serving.inputs.spec import write_json

CONTENT_TYPES = {b"\x89PNG": ("png", "image/png"), b"\xff\xd8\xff": ("jpg", "image/jpeg")}


def choose(labels: np.ndarray, probabilities: np.ndarray, count: int) -> list[int]:
    """Rows to keep: of each class in turn, now the surest that is left, now the least sure."""
    order = np.argsort(-probabilities[np.arange(len(labels)), labels], kind="stable")
    left = [list(order[labels[order] == label]) for label in np.unique(labels)]
    chosen: list[int] = []
    for turn, rows in enumerate(cycle(left)):
        if len(chosen) == min(count, len(labels)):
            return chosen
        if rows:
            chosen.append(int(rows.pop(0 if turn // len(left) % 2 == 0 else -1)))
    return chosen


def raw_inputs(ids: list[bytes], ingest: Path, data: Data) -> list[bytes]:
    """The raw bytes that samples were ingested from, found by their ids through the manifest."""
    known = np.array(Dataset(ingest).column("id"))
    rows = [int(np.flatnonzero(known == identity)[0]) for identity in ids]
    wanted = set(rows)
    with (ingest / "manifest.csv").open(newline="", encoding="utf-8") as file:
        origin = {int(row["row"]): row["origin"] for row in csv.DictReader(file) if int(row["row"]) in wanted}
    try:
        found = open_source(data).read(origin.values())
        return [found[origin[row]] for row in rows]
    except (KeyError, FileNotFoundError) as error:
        raise UserError(
            f"the raw sample {error} is gone since ingest; run 'dvc repro' to ingest anew"
        ) from None


def write_golden(
    folder: Path, test: Dataset, probabilities: np.ndarray, ingest: Path, data: Data, count: int
) -> None:
    """Write `golden.json` and a file a request: each sample's own raw bytes, and the first also as JSON.

    Raises:
        UserError: a raw sample changed or vanished since it was ingested.
    """
    folder.mkdir()
    chosen = choose(np.array(test.column("label")), probabilities, count)
    raws = raw_inputs([bytes(test.column("id")[row]) for row in chosen], ingest, data)
    requests = []
    for number, (row, raw) in enumerate(zip(chosen, raws, strict=True)):
        _check(raw, np.array(test.column("image")[row]), test)
        suffix, content_type = CONTENT_TYPES.get(raw[:4], CONTENT_TYPES.get(raw[:3], ("bin", "image/*")))
        answer = _expected(probabilities[row], test.spec.classes)
        requests.append({"file": f"{number:03}.{suffix}", "content_type": content_type, **answer})
        (folder / f"{number:03}.{suffix}").write_bytes(raw)
    body = json.dumps({"image": base64.b64encode(raws[0]).decode()})
    (folder / "000.json").write_text(body + "\n")
    answer = _expected(probabilities[chosen[0]], test.spec.classes)
    requests.append({"file": "000.json", "content_type": "application/json", **answer})
    write_json(folder / "golden.json", {"requests": requests})


def _check(raw: bytes, image: np.ndarray, test: Dataset) -> None:
    try:
        same = np.array_equal(decode(raw, test.spec), image)
    except BadInput:
        same = False
    if not same:
        raise UserError("a raw sample changed since ingest; run 'dvc repro' to ingest anew")


def _expected(row: np.ndarray, classes: tuple[str, ...]) -> dict[str, object]:
    named = {name: float(p) for name, p in zip(classes, row, strict=True)}
    return {"label": classes[int(row.argmax())], "probabilities": named}
