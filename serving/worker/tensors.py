"""Tensors of the Open Inference Protocol on the wire: JSON, with the binary extension or without it.

https://github.com/kserve/open-inference-protocol and Triton's binary tensor data extension, which puts the values
of tensors behind the JSON, whose length the header `Inference-Header-Content-Length` tells.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.inputs.body import BadInput, parse_json
from serving.worker.messages import Body, Reply, Request

HEADER = "inference-header-content-length"
DATATYPES = {
    "BOOL": "|b1",
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}  # of numbers; BYTES holds byte strings


@dataclass(frozen=True)
class Tensor:
    """A named tensor; one of BYTES is an object array of byte strings."""

    name: str
    datatype: str
    values: np.ndarray


@dataclass(frozen=True)
class Asked:
    """One request: its tensors, and in which form the answer is to come.

    Args:
        id: the client's own name for it, or nothing.
        inputs: what is asked about.
        outputs: whether each named output goes behind the JSON; empty for all outputs in the form of `binary`.
        binary: the form of outputs that say nothing of their own.
    """

    id: str
    inputs: tuple[Tensor, ...]
    outputs: dict[str, bool] = field(default_factory=dict)
    binary: bool = False


def datatype_of(dtype: str | np.dtype[Any]) -> str:
    """The protocol's name of a NumPy dtype.

    >>> datatype_of("|u1"), datatype_of("<f4")
    ('UINT8', 'FP32')
    """
    kind = np.dtype(dtype)
    names = {"u": "UINT", "i": "INT", "f": "FP", "b": "BOOL"}
    return names[kind.kind] + (str(kind.itemsize * 8) if kind.kind != "b" else "")


def read(request: Request) -> Asked:
    """The tensors of one request.

    Raises:
        BadInput: it does not follow the protocol; the message names the input.
    """
    content, rest = _split(request.body, request.headers)
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(each, dict) for each in inputs):
        raise BadInput("'inputs' must be a list of tensors, each with 'name', 'shape', 'datatype' and 'data'")
    given = content.get("id", "")
    if not isinstance(given, str):
        raise BadInput(f"'id' must be a string; found {type(given).__name__}")
    tensors, at = [], 0
    for each in inputs:
        tensor, at = _tensor(each, rest, at)
        tensors.append(tensor)
    if at != len(rest):
        raise BadInput(f"the body has {len(rest)} bytes behind its JSON; the inputs name {at}")
    return Asked(given, tuple(tensors), *_wanted(content))


def _split(body: Body, headers: Mapping[str, str]) -> tuple[dict[str, Any], bytes]:
    """The JSON object of a body, and the bytes behind it."""
    if headers.get("content-encoding", "identity") != "identity":
        raise BadInput("compressed bodies are not taken; send it without Content-Encoding")
    rest = b""
    if HEADER in headers and isinstance(body, bytes):
        length = headers[HEADER]
        if not length.isascii() or not length.isdigit() or int(length) > len(body):
            raise BadInput(
                f"'{HEADER}' must be the length of the body's JSON, {len(body)} at most; found {length[:40]}"
            )
        body, rest = body[: int(length)], body[int(length) :]
    content = parse_json(body)
    if not isinstance(content, dict):
        raise BadInput(f"expected a JSON object with 'inputs'; found {type(content).__name__}")
    return content, rest


def _wanted(content: dict[str, Any]) -> tuple[dict[str, bool], bool]:
    binary = _parameters(content).get("binary_data_output") is True
    outputs = content.get("outputs") or []
    if not isinstance(outputs, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in outputs
    ):
        raise BadInput("'outputs' must be a list of objects, each with a 'name'")
    found = {}
    for each in outputs:
        wishes = _parameters(each)
        if wishes.get("classification"):
            raise BadInput(f"output '{each['name']}': 'classification' is not supported; ask for 'label'")
        found[each["name"]] = wishes.get("binary_data", binary) is True
    return found, binary


def _parameters(content: dict[str, Any]) -> dict[str, Any]:
    found = content.get("parameters") or {}
    if not isinstance(found, dict):
        raise BadInput("'parameters' must be an object")
    return found


def _tensor(content: dict[str, Any], rest: bytes, at: int) -> tuple[Tensor, int]:
    """One input, its values in the JSON or in `rest` from `at` on; and where they end."""
    name, datatype, shape = content.get("name"), content.get("datatype"), content.get("shape")
    if not isinstance(name, str) or not name:
        raise BadInput(f"an input's 'name' must be a string; found {name!r}")
    if datatype != "BYTES" and (not isinstance(datatype, str) or datatype not in DATATYPES):
        known = ", ".join([*DATATYPES, "BYTES"])
        raise BadInput(f"input '{name}': 'datatype' must be one of {known}; found {datatype!r}")
    if not isinstance(shape, list) or not all(_is_side(side) for side in shape):
        raise BadInput(f"input '{name}': 'shape' must be a list of whole numbers; found {shape!r}")
    count, wishes = math.prod(shape), _parameters(content)
    if (size := wishes.get("binary_data_size")) is not None:
        if not _is_side(size) or at + size > len(rest):
            raise BadInput(f"input '{name}': 'binary_data_size' is {size!r}; {len(rest) - at} bytes are left")
        values = _from_binary(name, datatype, rest[at : at + size])
        at += size
    elif "data" in content:
        coded = wishes.get("content_type") == "base64"
        values = (
            _texts(name, content["data"], coded)
            if datatype == "BYTES"
            else _numbers(name, datatype, content["data"])
        )
    else:
        raise BadInput(f"input '{name}' has neither 'data' nor the parameter 'binary_data_size'")
    if len(values) != count:
        raise BadInput(f"input '{name}' holds {len(values)} values; its shape {shape} asks for {count}")
    return Tensor(name, datatype, values.reshape(shape)), at


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _from_binary(name: str, datatype: str, raw: bytes) -> np.ndarray:
    if datatype != "BYTES":
        dtype = np.dtype(DATATYPES[datatype])
        if len(raw) % dtype.itemsize:
            raise BadInput(f"input '{name}' has {len(raw)} bytes, no whole number of {datatype}")
        return np.frombuffer(raw, dtype)
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            raise BadInput(f"input '{name}': element {len(found)} is longer than what is left of the body")
        found.append(raw[at + 4 : end])
        at = end
    return _objects(found)


def _objects(items: list[bytes]) -> np.ndarray:
    out = np.empty(len(items), object)
    out[:] = items
    return out


def _flat(data: object) -> list[Any]:
    """The elements of a list, or of lists in it, in their order."""
    out, left = [], [data]
    while left:
        item = left.pop()
        if isinstance(item, list):
            left.extend(reversed(item))
        else:
            out.append(item)
    return out


def _texts(name: str, data: object, coded: bool) -> np.ndarray:
    items = _flat(data)
    if not all(isinstance(item, str) for item in items):
        raise BadInput(f"input '{name}': 'data' of BYTES must be strings")
    try:
        return _objects([base64.b64decode(item, validate=True) if coded else item.encode() for item in items])
    except (binascii.Error, UnicodeEncodeError, ValueError) as error:
        raise BadInput(f"input '{name}': 'data' holds a string that cannot be read: {error}") from None


def _numbers(name: str, datatype: str, data: object) -> np.ndarray:
    """Numbers from JSON; null is NaN where the datatype has one."""
    dtype = np.dtype(DATATYPES[datatype])
    items = _flat(data)
    allowed: tuple[type, ...] = (int, float, type(None)) if dtype.kind == "f" else (int,)
    for item in items:
        if not isinstance(item, allowed) or (isinstance(item, bool) != (dtype.kind == "b")):
            raise BadInput(f"input '{name}': 'data' holds {item!r}, which is no {datatype}")
    try:
        with np.errstate(over="raise"):
            return np.array(items, np.float64 if dtype.kind == "f" else dtype).astype(dtype)
    except (OverflowError, FloatingPointError) as error:
        raise BadInput(f"input '{name}': 'data' holds what {datatype} cannot: {error}") from None


def write(
    asked: Asked, head: dict[str, Any], outputs: dict[str, np.ndarray], said: Sequence[Mapping[str, Any]]
) -> Reply:
    """The answer: the named outputs, or all, each in the form that was asked for; `said` is for the log alone.

    Raises:
        BadInput: an output was asked for that there is none of.
    """
    if unknown := sorted(asked.outputs.keys() - outputs.keys()):
        raise BadInput(f"there are no outputs {unknown}; expected some of {sorted(outputs)}")
    tail = b""
    told = []
    for name, binary in (asked.outputs or dict.fromkeys(outputs, asked.binary)).items():
        values = outputs[name]
        datatype = "BYTES" if values.dtype == object else datatype_of(values.dtype)
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if binary:
            raw = _to_binary(values)
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        else:
            flat = values.ravel().tolist()
            entry["data"] = [item.decode() for item in flat] if datatype == "BYTES" else flat
        told.append(entry)
    text = json.dumps({**head, "outputs": told}).encode()
    if not tail:
        return Reply(200, text, said=said)
    length = {"Inference-Header-Content-Length": str(len(text))}
    return Reply(200, text + tail, "application/octet-stream", length, said)


def _to_binary(values: np.ndarray) -> bytes:
    if values.dtype == object:
        return b"".join(len(item).to_bytes(4, "little") + item for item in values.ravel())
    return values.astype(values.dtype.newbyteorder("<")).tobytes()
