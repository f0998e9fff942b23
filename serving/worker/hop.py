"""The road from a champion's worker to the challenger's workers: over loopback, connections kept, waits bounded."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from serving.worker.messages import Reply, Request
from serving.worker.route import MARK, Route

STEP = "X-Fairlead-Step"  # a challenger's answer: number of its forward pass, rows of it, milliseconds
KEY_FILE = "key_file.json"
FORMS = ("multipart/", "application/x-www-form-urlencoded")  # the server took the form apart: its file is raw
KEPT = 64  # idle connections at most
READY = 0.002  # seconds for what has arrived already, once the time is over


@dataclass(frozen=True)
class Answer:
    """A challenger's good answer: what is passed on, what it says, and its pass (id, rows, milliseconds)."""

    reply: Reply
    content: dict[str, Any]
    step: tuple[str, int, float] | None


@dataclass(frozen=True)
class Fault:
    """Why a challenger gave no good answer; `counts` is False where that was not its doing."""

    reason: str
    counts: bool = True


@dataclass(frozen=True)
class Sent:
    """A request under way, or why it is not."""

    request: Request
    connection: HTTPConnection | None = None
    reused: bool = False
    token: str = ""
    fault: Fault | None = None


class Hop:
    """Sends requests to the challenger's own address and collects the answers later.

    Args:
        state: the server's state folder, with its tokens.
    """

    def __init__(self, state: Path) -> None:
        self._keys = state / KEY_FILE
        self._seen: int | None = None
        self._token = ""
        self._address = ""
        self._idle: list[HTTPConnection] = []

    def send(self, route: Route, requests: Sequence[Request]) -> list[Sent]:
        """Put requests on their way, each on a connection of its own, and wait for nothing."""
        if not requests:
            return []
        if route.url != self._address:
            self._address, self._idle = route.url, []
        deadline = time.monotonic() + route.timeout_ms / 1000
        return [self._send(route, request, deadline) for request in requests]

    def collect(self, route: Route, sent: Sequence[Sent], deadline: float) -> list[Answer | Fault]:
        """The answers, or why there are none, by `deadline` (monotonic seconds) for all of them together."""
        return [self._receive(route, each, deadline) for each in sent]

    def forget(self, sent: Sequence[Sent]) -> None:
        """Close what will not be collected."""
        for each in sent:
            if each.connection:
                each.connection.close()

    def _send(self, route: Route, request: Request, deadline: float, fresh: bool = False) -> Sent:
        """One request; a kept connection may have been closed meanwhile, so a second try takes a new one."""
        reused = bool(self._idle) and not fresh
        split = urlsplit(route.url)
        connection = self._idle.pop() if reused else HTTPConnection(split.hostname or "", split.port)
        token = self._read_token()
        try:
            _limit(connection, deadline)
            path = f"/predictions/{quote(route.model)}/{quote(route.challenger)}"
            assert isinstance(request.body, bytes)
            connection.request("POST", path, request.body, _headers(request, token))
        except (OSError, HTTPException) as error:
            connection.close()
            if reused and time.monotonic() < deadline:
                return self._send(route, request, deadline, fresh=True)
            return Sent(request, fault=Fault(_why(error)))
        return Sent(request, connection, reused, token)

    def _receive(self, route: Route, sent: Sent, deadline: float) -> Answer | Fault:
        if sent.connection is None:
            return sent.fault or Fault("not sent")
        try:
            _limit(sent.connection, deadline)
            response = sent.connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            sent.connection.close()
            if sent.reused and not isinstance(error, TimeoutError) and time.monotonic() < deadline:
                return self._receive(route, self._send(route, sent.request, deadline, fresh=True), deadline)
            return Fault(_why(error))
        if response.will_close or len(self._idle) >= KEPT:
            sent.connection.close()
        else:
            self._idle.append(sent.connection)
        if response.status != 200:
            rotated = response.status in (400, 401, 403) and self._read_token() != sent.token
            return Fault(f"status {response.status}", counts=not rotated)
        return _understood(route, body, response.getheader("content-type", ""), response.getheader(STEP, ""))

    def _read_token(self) -> str:
        """The inference token, read anew when its file changes."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            changed = self._keys.stat().st_mtime_ns
            if changed != self._seen:
                self._token, self._seen = str(json.loads(self._keys.read_text())["inference"]["key"]), changed
        return self._token


class Breaker:
    """Spares clients a challenger that is gone: after a few failures in a row, nothing is sent for a while.

    Each wait is twice the last, up to `longest` seconds; one good answer forgets them all.
    """

    def __init__(self, failures: int = 3, first: float = 1.0, longest: float = 30.0) -> None:
        self._limit, self._first, self._longest = failures, first, longest
        self._salt = ""
        self._in_a_row = 0
        self._until = 0.0

    def closed(self, salt: str) -> bool:
        """True where requests may be sent; another trial (salt) starts with a clean slate."""
        if salt != self._salt:
            self._salt, self._in_a_row, self._until = salt, 0, 0.0
        return time.monotonic() >= self._until

    def heard(self, salt: str, answers: Sequence[Answer | Fault]) -> None:
        """Take note of what came back."""
        if salt != self._salt or not answers:
            return
        if any(isinstance(answer, Answer) for answer in answers):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row >= self._limit:
            wait = min(self._longest, self._first * 2 ** (self._in_a_row - self._limit))
            self._until = time.monotonic() + wait


def _limit(connection: HTTPConnection, deadline: float) -> None:
    left = max(READY, deadline - time.monotonic())
    connection.timeout = left
    if connection.sock:
        connection.sock.settimeout(left)


def _headers(request: Request, token: str) -> dict[str, str]:
    given = request.headers.get("content-type", "")
    raw = not (given.isascii() and given.isprintable() and given) or given.lower().startswith(FORMS)
    return {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/octet-stream" if raw else given,
        "X-Request-Id": request.id,
        MARK: "challenger",
    }


def _why(error: Exception) -> str:
    return "timeout" if isinstance(error, TimeoutError) else type(error).__name__


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _understood(route: Route, body: bytes, content_type: str, told: str) -> Answer | Fault:
    """A good answer is JSON from the very version that was asked, without NaN or infinities."""
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
        version = content["model_version"]
    except (ValueError, KeyError, TypeError):
        return Fault("no proper answer")
    if version != route.challenger:
        return Fault(f"answered by {str(version)[:64]}")
    return Answer(Reply(200, body, content_type or "application/json"), content, _step(told))


def _step(told: str) -> tuple[str, int, float] | None:
    try:
        name, rows, took = told.split(";")
        step = (name, int(rows), float(took))
    except ValueError:
        return None
    return step if step[1] > 0 and math.isfinite(step[2]) and step[2] >= 0 else None
