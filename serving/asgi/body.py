"""From an HTTP request to the body that the model's worker gets: read within limits, forms taken apart."""

from __future__ import annotations

import asyncio
import re

from starlette.requests import ClientDisconnect, Request

from serving.worker.messages import Body

BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
FIELD = re.compile(r'[;\s]name=(?:"([^"]*)"|([^\s;"]+))', re.IGNORECASE)


class Refused(Exception):
    """A request that gets no answer from the model: HTTP status, reason, and headers for the client."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers or {}


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body, never more than `limit` bytes of it in memory.

    Raises:
        Refused: 413 where it is longer, 408 where it takes longer than `seconds`. What the client still sends then
            is thrown away by uvicorn as it comes.
    """
    declared = request.headers.get("content-length", "0")
    if len(declared) > 15 or int(declared) > limit:
        raise _too_large(declared, limit)
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large("more", limit)
                parts.append(chunk)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {seconds:g} s", {"connection": "close"}) from None
    except ClientDisconnect:
        raise Refused(400, "the client left before its body was whole") from None
    return b"".join(parts)


def _too_large(found: str, limit: int) -> Refused:
    return Refused(
        413, f"Request Entity Too Large: the body has {found[:15]} bytes; expected {limit} at most"
    )


def body_of(raw: bytes, content_type: str) -> Body:
    """What the model gets: the body itself, or of an upload through a form its one field.

    A form of several fields becomes a dict of their names, which every decoder refuses by name.

    Raises:
        Refused: 400 where it says that it is a form and is none.
    """
    if not content_type.lower().startswith("multipart/form-data"):
        return raw
    found = BOUNDARY.search(content_type)
    if found is None:
        raise Refused(400, "the form's Content-Type names no boundary")
    fields = _fields(raw, (found[1] or found[2]).encode())
    return next(iter(fields.values())) if len(fields) == 1 else dict.fromkeys(fields)


def _fields(raw: bytes, boundary: bytes) -> dict[str, bytes]:
    """The fields of a form by name (RFC 7578)."""
    begin, *parts = (b"\r\n" + raw).split(b"\r\n--" + boundary)
    if begin.strip() or len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise Refused(400, "the form is not whole: it must begin and end with its boundary")
    fields = {}
    for part in parts[:-1]:
        head, blank, content = part.partition(b"\r\n\r\n")
        named = FIELD.search(head.decode("utf-8", "replace"))
        if not blank or named is None:
            raise Refused(400, "a part of the form has no name")
        fields[named[1] or named[2] or ""] = content
    return fields
