"""A request and its reply as every server hands them over: no server's own types go further than its shell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"
PROBE = "fairlead-probe"  # the id of the supervisor's own requests
MOST_ROWS = 1024  # of one request
MOST_BYTES = 6_000_000  # of one answer; TorchServe ends a worker that sends more than 6,553,500
Body = bytes | dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request.

    Args:
        id: names the request in its answer and in the log.
        body: raw bytes, or the fields of a form.
        headers: by lower-case name.
        kind: what is asked for, a key of `worker.KINDS`.
    """

    id: str
    body: Body
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "predict"


@dataclass(frozen=True)
class Reply:
    """One answer: HTTP status, body, and headers besides the content type.

    `said` is the prediction that the body tells, or those of many rows, for the request log and the metrics.
    """

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    said: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None


def answered(
    content: dict[str, Any],
    headers: Mapping[str, str] | None = None,
    said: Sequence[Mapping[str, Any]] | None = None,
) -> Reply:
    """A good answer in JSON; `said` are its predictions where it is none itself."""
    return Reply(200, json.dumps(content).encode(), headers=headers or {}, said=said or content)


def refused(status: int, reason: object, request: Request, headers: Mapping[str, str] | None = None) -> Reply:
    """An answer that says why there is none."""
    content = {"error": str(reason), "request_id": request.id}
    return Reply(status, json.dumps(content).encode(), headers=headers or {})


def limited(reply: Reply, request: Request) -> Reply:
    """A reply, or a 400 where it is too long to be sent."""
    if len(reply.body) <= MOST_BYTES:
        return reply
    reason = f"the answer has {len(reply.body)} bytes, more than {MOST_BYTES}; ask for fewer rows at once"
    return refused(400, reason, request)
