"""Golden requests: raw inputs of test samples, as a client would send them, with the answers to expect."""

from __future__ import annotations

import csv
from itertools import cycle
from pathlib import Path

import numpy as np

from pipeline.bodies import generation_body
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.sources import Data, Request, open_source
from serving.inputs.decode import BadInput, Decoder
from serving.inputs.generation import SEEDS, canonical, latent_of
from serving.inputs.spec import DataSpec, write_json
from serving.predictor import named


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


def spread(outputs: np.ndarray, count: int) -> list[int]:
    """Rows to keep of a regression: evenly from the lowest answer to the highest."""
    order = np.argsort(outputs[:, 0], kind="stable")
    return [int(order[at]) for at in np.unique(np.linspace(0, len(order) - 1, count).astype(int))]


def raw_requests(ids: list[bytes], ingest: Path, data: Data) -> list[tuple[Request, ...]]:
    """The raw requests that samples were ingested from, found by their ids through the manifest."""
    known = np.array(Dataset(ingest).column("id"))
    rows = [int(np.flatnonzero(known == identity)[0]) for identity in ids]
    wanted = set(rows)
    with (ingest / "manifest.csv").open(newline="", encoding="utf-8") as file:
        origin = {int(row["row"]): row["origin"] for row in csv.DictReader(file) if int(row["row"]) in wanted}
    try:
        found = open_source(data).requests(origin.values())
        return [found[origin[row]] for row in rows]
    except (KeyError, FileNotFoundError) as error:
        raise UserError(
            f"the raw sample {error} is gone since ingest; run 'dvc repro' to ingest anew"
        ) from None


def asked(label: int, row: int, spec: DataSpec) -> tuple[Request, ...]:
    """The request that a generated image answers."""
    body, kind = generation_body(label, row % SEEDS, spec)
    return (Request(body, "json", kind),)


def write_golden(
    folder: Path, test: Dataset, outputs: np.ndarray, decode: Decoder, ingest: Path, data: Data, count: int
) -> None:
    """Write `golden.json` and a file a request: each sample in its own form, and the first in every other too.

    Raises:
        UserError: a raw sample changed or vanished since it was ingested.
    """
    folder.mkdir()
    spec = test.spec
    if spec.task == "generation":
        chosen = [int(row) for row in np.unique(np.linspace(0, len(test) - 1, count).astype(int))]
        forms = [asked(int(test.targets[row]), row, spec) for row in chosen]
        rows = [
            canonical(int(outputs[row, 0]), int(outputs[row, 1]), latent_of(folder.parent)) for row in chosen
        ]
    else:
        chosen = (
            choose(test.targets, outputs, count) if spec.task == "classification" else spread(outputs, count)
        )
        forms = raw_requests([bytes(test.column("id")[row]) for row in chosen], ingest, data)
        rows = [np.array(test.inputs[row]) for row in chosen]
    requests = []
    for number, (row, every, expected) in enumerate(zip(chosen, forms, rows, strict=True)):
        for request in every if number == 0 else every[:1]:
            _check(request.body, expected, decode)
            file = f"{number:03}.{request.suffix}"
            (folder / file).write_bytes(request.body)
            requests.append({"file": file, "content_type": request.content_type, **named(spec, outputs[row])})
    write_json(folder / "golden.json", {"requests": requests})


def _check(raw: bytes, row: np.ndarray, decode: Decoder) -> None:
    try:
        same = np.array_equal(decode(raw), row, equal_nan=row.dtype.kind == "f")
    except BadInput:
        same = False
    if not same:
        raise UserError("a raw sample changed since ingest; run 'dvc repro' to ingest anew")
