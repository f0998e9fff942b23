"""Predictions: one request a body, or many rows in one body, within the time that a worker has.

Many rows are `{"instances": [...]}`, as TensorFlow Serving and KServe's first protocol have it, or a CSV body of many
lines where the model takes tables. The answer is `{"predictions": [...]}` in their order, or one error that names the
rows which are wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.inputs.body import BadInput, csv_lines, is_json, parse_json
from serving.inputs.ragged import gather
from serving.inputs.spec import DataSpec
from serving.predictor import Predictor, named
from serving.worker.messages import MOST_ROWS, Body, Reply, Request, answered, limited, refused

SHARE = 0.3  # of the time that a batch has, for all the rows of a kind in it; there are three kinds
PIECE = 64  # rows between two looks at the clock
TOLD = 5  # wrong rows that an error names
Part = np.ndarray | BadInput
NOT_FINITE = "the model has no finite answer to these values: some are too large for it"


class TooSlow(BadInput):
    """More rows than the model answers in time."""


class Busy(BadInput):
    """A request that others in its batch left no time for."""


def status_of(error: BadInput) -> int:
    """HTTP's status for what is wrong with a request."""
    return {TooSlow: 413, Busy: 503}.get(type(error), 400)


def rows_in(body: Body, spec: DataSpec) -> list[Body] | None:
    """The bodies that a body of many rows stands for; None for a body of one.

    Raises:
        BadInput: it is meant as many, and cannot be read.
    """
    if is_json(body):
        return _instances(body, spec)
    if spec.modality == "table" and isinstance(body, bytes) and len(body.splitlines()) > 1:
        return _lines(body, spec)
    return None


def _instances(body: Body, spec: DataSpec) -> list[Body] | None:
    if isinstance(body, bytes) and b'"instances"' not in body:
        return None
    content = parse_json(body)
    if not isinstance(content, dict) or content.keys() != {"instances"}:
        return None
    if spec.table is not None and any(field.name == "instances" for field in spec.table.fields):
        return None
    found = content["instances"]
    if not isinstance(found, list):
        raise BadInput(f"'instances' must be a list of 1 to {MOST_ROWS}; found {type(found).__name__}")
    return [_body(each, at, spec) for at, each in enumerate(_bounded(found, "'instances'"))]


def _bounded(rows: list[Any], where: str) -> list[Any]:
    if not 1 <= len(rows) <= MOST_ROWS:
        raise BadInput(f"{where} must hold 1 to {MOST_ROWS} rows; found {len(rows)}")
    return rows


def _body(given: Any, at: int, spec: DataSpec) -> dict[str, Any]:
    """One instance as the JSON object that a request of its own would be."""
    if isinstance(given, dict):
        coded = spec.image is not None and spec.task != "generation" and given.keys() == {"b64"}
        return {"image": given["b64"]} if coded else given
    if spec.task == "generation":
        return {"label": given}
    if spec.table is not None:
        if not isinstance(given, list):
            raise BadInput(f"row {at}: expected an object or a list; found {type(given).__name__}")
        return _columns([field.name for field in spec.table.fields], given, at)
    key = {"image": "image" if isinstance(given, str) else "pixels"}.get(spec.modality, spec.modality)
    return {key: given}


def _columns(header: Sequence[str], row: Sequence[Any], at: int) -> dict[str, Any]:
    if len(row) != len(header):
        raise BadInput(f"row {at} has {len(row)} cells; expected {len(header)}: {', '.join(header)}")
    return dict(zip(header, row, strict=True))


def _lines(body: bytes, spec: DataSpec) -> list[Body] | None:
    assert spec.table is not None
    names = [field.name for field in spec.table.fields]
    lines = csv_lines(body)
    first = {cell.strip() for cell in lines[0]} if lines else set()
    headed = 2 * len(first & set(names)) >= len(first)
    if len(lines) == 1 or (len(lines) == 2 and headed):
        return None
    header = [cell.strip() for cell in lines[0]] if headed else names
    rows = _bounded(lines[1:] if headed else lines, "the CSV body")
    return [_columns(header, row, at) for at, row in enumerate(rows)]


def predict(predictor: Predictor, requests: Sequence[Request]) -> list[Reply]:
    """Predictions of raw bodies; a request that cannot be decoded gets its own 400 and spoils no other."""
    deadline = time.monotonic() + SHARE * predictor.seconds
    asked: list[tuple[bool, list[np.ndarray] | BadInput]] = []
    spent = 0.0  # on lone bodies, which have as much time among them as many rows have
    for request in requests:
        began = time.monotonic()
        asked.append(_read(predictor, request, deadline, spent > max(0.0, SHARE * predictor.seconds)))
        spent += 0.0 if asked[-1][0] else time.monotonic() - began
    groups = [rows for _, rows in asked if not isinstance(rows, BadInput)]
    found = iter(outputs_of(predictor, groups, deadline))
    replies = []
    for request, (many, rows) in zip(requests, asked, strict=True):
        outputs = rows if isinstance(rows, BadInput) else next(found)
        if isinstance(outputs, BadInput):
            replies.append(refused(status_of(outputs), outputs, request))
        elif many:
            replies.append(_together(predictor, request, outputs))
        else:
            replies.append(answered(predictor.format(outputs[0], request.id)))
    return replies


def _read(
    predictor: Predictor, request: Request, deadline: float, busy: bool
) -> tuple[bool, list[np.ndarray] | BadInput]:
    """Whether it is a request of many rows, and its canonical rows or what is wrong with it."""
    bodies = None
    try:
        bodies = rows_in(request.body, predictor.spec)
        if bodies is not None:
            return True, decoded(predictor.decode, bodies, deadline)
        if busy:
            raise Busy("requests before this one took the time of its batch; ask again")
        return False, [predictor.decode(request.body)]
    except BadInput as error:
        return bodies is not None, error


def decoded(
    decode: Callable[[Any], np.ndarray], given: Sequence[Any] | np.ndarray, deadline: float
) -> list[np.ndarray]:
    """The canonical rows of many raw ones.

    Raises:
        TooSlow: it takes longer than there is time, as many large images may.
        BadInput: some cannot be decoded; the first of them are named.
    """
    rows, wrong = [], []
    for at, each in enumerate(given):
        if time.monotonic() > deadline:
            raise TooSlow(f"{at} of {len(given)} rows were read in time; ask for fewer at once")
        try:
            rows.append(decode(each))
        except BadInput as error:
            wrong.append(f"row {at}: {error}")
    if wrong:
        more = f"; and {len(wrong) - TOLD} rows more" if len(wrong) > TOLD else ""
        raise BadInput("; ".join(wrong[:TOLD]) + more)
    return rows


def _together(predictor: Predictor, request: Request, outputs: np.ndarray) -> Reply:
    told = [named(predictor.spec, row) for row in outputs]
    whole = {"predictions": told, "model_version": predictor.version, "request_id": request.id}
    return limited(answered(whole, said=told), request)


def outputs_of(predictor: Predictor, groups: Sequence[list[np.ndarray]], deadline: float) -> list[Part]:
    """The outputs of each group of canonical rows, or why there are none.

    Lone rows go first and together, then one group after the other as long as there is time.
    """
    found: list[Part | None] = [None] * len(groups)
    alone = [at for at, rows in enumerate(groups) if len(rows) == 1]
    if alone:
        parts = _forward(predictor, [groups[at][0] for at in alone])
        for at, part in zip(alone, parts, strict=True):
            found[at] = part
    for at, rows in enumerate(groups):
        if found[at] is None:
            found[at] = _within(predictor, rows, deadline)
    return [part for part in found if part is not None]


def _within(predictor: Predictor, rows: list[np.ndarray], deadline: float) -> Part:
    parts = []
    for begin in range(0, len(rows), PIECE):
        if time.monotonic() > deadline:
            return TooSlow(f"{begin} of {len(rows)} rows were answered in time; ask for fewer at once")
        part = _forward(predictor, rows[begin : begin + PIECE])
        if wrong := [(begin + at, each) for at, each in enumerate(part) if isinstance(each, BadInput)]:
            return BadInput(f"row {wrong[0][0]}: {wrong[0][1]}")
        parts += [each for each in part if not isinstance(each, BadInput)]
    return np.concatenate(parts)


def _forward(predictor: Predictor, rows: Sequence[np.ndarray]) -> list[Part]:
    """Outputs (1, K) of each row; where the graph itself refuses values, such as unknown tokens, of those it takes."""
    try:
        found = predictor.outputs(gather(rows, predictor.spec.input))
        finite = np.isfinite(found).all(axis=1)
        return [found[at : at + 1] if finite[at] else BadInput(NOT_FINITE) for at in range(len(found))]
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's own classes derive from nothing narrower
        if len(rows) == 1:
            return [BadInput(f"the model cannot take these values: {str(error).splitlines()[0]}")]
        return [_forward(predictor, [row])[0] for row in rows]
