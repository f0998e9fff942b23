"""What every decoder shares: the error for bad input, and JSON bodies."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

LONGEST = 1000  # characters of a message


class BadInput(ValueError):
    """Raw input that cannot be decoded; its message says what is wrong, what was expected and where.

    A message is cut where it repeats what is long: an answer larger than TorchServe's limit ends its worker.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= LONGEST else message[:LONGEST] + " ...")


def is_json(body: bytes | dict[str, Any]) -> bool:
    """True for a body that is JSON, decoded or not, and nothing else."""
    return isinstance(body, dict) or body.lstrip()[:1] in (b"{", b"[")


def parse_json(body: bytes | dict[str, Any]) -> Any:
    """The content of a JSON body.

    Raises:
        BadInput: it is not JSON.
    """
    if isinstance(body, dict):
        return body
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is not valid JSON: {error}") from None


def only_key(content: Any, *keys: str) -> tuple[str, Any]:
    """The one entry of a JSON object that may have any one of `keys`.

    Raises:
        BadInput: it is no object, or has other keys.
    """
    wanted = " or ".join(f"'{key}'" for key in keys)
    number = "one key, " if len(keys) > 1 else "the key "
    if not isinstance(content, dict) or len(content) != 1 or not content.keys() <= set(keys):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise BadInput(f"expected a JSON object with {number}{wanted}; found {found}")
    key, value = next(iter(content.items()))
    return key, value


def text_of(body: bytes) -> str:
    """The body as text, without a byte-order mark.

    Raises:
        BadInput: it is not UTF-8.
    """
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}") from None


def csv_lines(body: bytes) -> list[list[str]]:
    """The cells of each CSV line that is not empty.

    Raises:
        BadInput: it is not UTF-8, or no CSV.
    """
    try:
        return [line for line in csv.reader(io.StringIO(text_of(body), newline="")) if line]
    except csv.Error as error:
        raise BadInput(f"the body is not valid CSV: {error}") from None
