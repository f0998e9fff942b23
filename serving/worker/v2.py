"""The Open Inference Protocol (KServe v2): what a server says of itself and of a model, and inference.

A model takes one input under its own name, in one of two forms: its canonical tensor, N rows of what the network sees;
or BYTES of shape (N,), each a raw request body as `/predictions` takes it (a PNG, a CSV row, a text, JSON).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from serving.inputs import generation
from serving.inputs.body import BadInput
from serving.inputs.series import check_steps
from serving.inputs.spec import DataSpec
from serving.predictor import Predictor, named
from serving.worker.messages import MOST_ROWS, Reply, Request, limited, refused
from serving.worker.rows import SHARE, decoded, outputs_of, status_of
from serving.worker.tensors import Asked, Tensor, datatype_of, read, write

EXTENSIONS = ["binary_tensor_data"]
BYTES = "BYTES"


def server_metadata() -> dict[str, Any]:
    """What `GET /v2` answers."""
    try:
        version = metadata.version("fairlead")
    except metadata.PackageNotFoundError:
        version = "unknown"
    return {"name": "fairlead", "version": version, "extensions": EXTENSIONS}


def model_metadata(spec: DataSpec, name: str, versions: Sequence[str]) -> dict[str, Any]:
    """What `GET /v2/models/NAME` answers; -1 stands for a side of any length.

    The input is listed in its canonical form where it has one that people can make, else as BYTES.
    """
    sides = {output: list(shape) for output, _, shape in _described(spec)}
    types = {output: datatype for output, datatype, _ in _described(spec)}
    return {
        "name": name,
        "versions": list(versions),
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": input_name(spec), **_takes(spec)}],
        "outputs": [{"name": each, "datatype": types[each], "shape": sides[each]} for each in sides],
    }


def input_name(spec: DataSpec) -> str:
    """The name of the model's only input."""
    return "request" if spec.task == "generation" else spec.input.name


def _takes(spec: DataSpec) -> dict[str, Any]:
    if spec.modality == "text" or spec.task == "generation":
        return {"datatype": BYTES, "shape": [-1]}
    steps = [-1] if spec.input.ragged else []
    return {"datatype": datatype_of(spec.input.dtype), "shape": [-1, *steps, *spec.input_shape]}


def _described(spec: DataSpec) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, datatype and shape of each output."""
    if spec.task == "generation":
        yield from (("label", BYTES, (-1,)), ("seed", "INT64", (-1,)))
        yield "image", "UINT8", (-1, *spec.input_shape)
    elif spec.task == "anomaly":
        yield from (("score", "FP32", (-1,)), ("anomaly", "BOOL", (-1,)), ("embedding", "FP32", (-1, -1)))
    elif spec.task == "classification":
        yield from (("label", BYTES, (-1,)), ("probabilities", "FP32", (-1, len(spec.outputs))))
    else:
        yield "values", "FP32", (-1, len(spec.outputs))


def tensors_of(spec: DataSpec, found: np.ndarray) -> dict[str, np.ndarray]:
    """The named outputs of rows of a network's outputs, (N, K)."""
    if spec.task == "generation":
        pictures = np.stack([generation.picture(row, spec) for row in found])
        return {"label": _names(spec, found[:, 0]), "seed": found[:, 1].astype(np.int64), "image": pictures}
    if spec.task == "anomaly":
        return {"score": found[:, 0], "anomaly": found[:, 0] > 1, "embedding": found[:, 1:]}
    if spec.task == "classification":
        return {"label": _names(spec, found.argmax(1)), "probabilities": found}
    return {"values": found}


def _names(spec: DataSpec, numbers: np.ndarray) -> np.ndarray:
    out = np.empty(len(numbers), object)
    out[:] = [spec.classes[int(number)].encode() for number in numbers]
    return out


def rows_of(predictor: Predictor, tensor: Tensor, deadline: float) -> list[np.ndarray]:
    """The canonical rows of an input.

    Raises:
        BadInput: another name, datatype or shape, or values that the model cannot take; names the input and row.
    """
    spec = predictor.spec
    if tensor.name != input_name(spec):
        raise BadInput(f"there is no input '{tensor.name}'; expected '{input_name(spec)}'")
    count = len(tensor.values) if tensor.values.ndim else 0
    if not 1 <= count <= MOST_ROWS:
        raise BadInput(f"input '{tensor.name}' has {count} rows; expected 1 to {MOST_ROWS}")
    if tensor.datatype == BYTES:
        if tensor.values.size != count:
            raise BadInput(f"input '{tensor.name}': BYTES must have the shape [{count}], a body a row")
        return decoded(predictor.decode, tensor.values.ravel(), deadline)
    _check_form(spec, tensor)
    return decoded(lambda row: _canonical(spec, row), tensor.values, deadline)


def _check_form(spec: DataSpec, tensor: Tensor) -> None:
    expected, shape = datatype_of(spec.input.dtype), list(tensor.values.shape)
    sides = [-1, *([-1] if spec.input.ragged else []), *spec.input_shape]
    if spec.task == "generation" or (spec.input.dtype == "|u1" and spec.modality == "text"):
        raise BadInput(f"input '{tensor.name}' must be BYTES, each a request body; found {tensor.datatype}")
    if tensor.datatype != expected:
        raise BadInput(f"input '{tensor.name}' must be {expected} or BYTES; found {tensor.datatype}")
    fits = len(shape) == len(sides) and all(
        side in (-1, found) for side, found in zip(sides, shape, strict=True)
    )
    if not fits:
        raise BadInput(f"input '{tensor.name}' has shape {shape}; expected {sides}, -1 for any")


def _canonical(spec: DataSpec, row: np.ndarray) -> np.ndarray:
    """One row, checked: values that a decoder would never give may not reach the network either."""
    if spec.series is not None:
        return check_steps(row, spec.series)
    if spec.text is not None:
        last = np.flatnonzero(row)
        tokens = row[: last[-1] + 1] if len(last) else row[:0]
        if not 1 <= len(tokens) <= spec.text.max_tokens or tokens.min() < 0:
            raise BadInput(f"expected 1 to {spec.text.max_tokens} tokens above 0, then zeros")
        return tokens
    if spec.table is not None:
        numbers, codes = np.split(row, [len(spec.table.numbers)])
        if np.isinf(numbers).any():
            at = int(np.flatnonzero(np.isinf(numbers))[0])
            raise BadInput(f"column '{spec.table.numbers[at].name}' is infinite")
        for field, code in zip(spec.table.categories, codes, strict=True):
            if code not in range(len(field.categories) + 1):
                raise BadInput(
                    f"column '{field.name}' is {code}; expected a code from 0 to {len(field.categories)}"
                )
    return row


def infer(predictor: Predictor, requests: Sequence[Request]) -> list[Reply]:
    """Answers to `POST /v2/models/NAME/infer`, all rows of all requests in one pass; a bad one gets its own 400."""
    replies: dict[int, Reply] = {}
    good: list[tuple[int, Asked, list[np.ndarray]]] = []
    deadline = time.monotonic() + SHARE * predictor.seconds
    for at, request in enumerate(requests):
        try:
            asked = read(request)
            if len(asked.inputs) != 1:
                raise BadInput(
                    f"expected one input, '{input_name(predictor.spec)}'; found {len(asked.inputs)}"
                )
            good.append((at, asked, rows_of(predictor, asked.inputs[0], deadline)))
        except BadInput as error:
            replies[at] = refused(status_of(error), error, request)
    found = outputs_of(predictor, [rows for _, _, rows in good], deadline)
    for (at, asked, _), outputs in zip(good, found, strict=True):
        replies[at] = _answer(predictor, requests[at], asked, outputs)
    return [replies[at] for at in range(len(requests))]


def _answer(predictor: Predictor, request: Request, asked: Asked, outputs: np.ndarray | BadInput) -> Reply:
    head = {
        "model_name": predictor.name,
        "model_version": predictor.version,
        "id": asked.id or request.id,
        "parameters": {"model_version": predictor.version, "request_id": request.id},
    }
    try:
        if isinstance(outputs, BadInput):
            raise outputs
        said = [named(predictor.spec, row) for row in outputs]
        return limited(write(asked, head, tensors_of(predictor.spec, outputs), said), request)
    except BadInput as error:
        return refused(status_of(error), error, request)
