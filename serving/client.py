"""Asks a running server for predictions.

A prediction changes nothing on the server, so asking again is always safe: whatever may pass by itself (a server
that restarts, a worker that died, a full queue, a lost answer) is asked again, by default for up to 30 seconds.
"""

from __future__ import annotations

import email.utils
import itertools
import random
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from serving.endpoint import KEY_FILE, RequestError, kept_up, read_endpoint, read_token

FIRST, LONGEST = 0.1, 2.0  # seconds: the longest wait before the first retry, and before any
PASSING = {429, 500, 502, 503, 504, 507}  # 500 and 507: the worker died; 503: the queue is full


class Client:
    """A pool of connections to one model on one server; threads may share it.

    A try that failed in passing is followed by another after a random wait (full jitter: up to 0.1 s, 0.2 s, 0.4 s
    and so on to 2 s, or what `Retry-After` says). All tries of a request carry the same `X-Request-Id`. Where
    no server listens, nothing was sent, so that is tried until the deadline; everything else at most `retries` times,
    as a request that kills its worker must not kill one after the other. No 4xx but 429 is tried again.

    Args:
        url: the server's address, such as `http://127.0.0.1:8080`.
        token: its inference token.
        name: the model's name.
        timeout: seconds to wait for one try.
        connections: the most connections to hold open at once.
        retries: how often a failed request is sent again; 0 tries once.
        deadline: seconds for a request with all its tries.
    """

    def __init__(
        self,
        url: str,
        token: str,
        name: str,
        timeout: float = 15.0,
        connections: int = 64,
        retries: int = 3,
        deadline: float = 30.0,
    ) -> None:
        self._path = f"/predictions/{name}"
        self._token = token
        self._timeout = timeout
        self._retries = retries
        self._deadline = deadline
        self._folder: Path | None = None  # where a local server keeps its tokens
        self._http = httpx.Client(
            base_url=url,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,  # a proxy from the environment must see neither token nor loopback requests
            verify=not plain_http(url),
        )

    @classmethod
    def local(
        cls,
        folder: Path,
        timeout: float = 15.0,
        connections: int = 64,
        retries: int = 3,
        deadline: float = 30.0,
        name: str | None = None,
    ) -> Client:
        """A client of the server whose state folder this is; it follows a restart and its new tokens.

        `name` is the model's, of which a server may have several.

        Raises:
            RequestError: the folder describes no server, or the server is down.
        """
        endpoint = read_endpoint(folder)
        if retries:
            _await_token(folder, deadline)
        address = name or endpoint.name
        found = cls(endpoint.url, read_token(folder), address, timeout, connections, retries, deadline)
        found._folder = folder
        return found

    def predict(
        self, body: bytes, content_type: str = "application/octet-stream", request_id: str | None = None
    ) -> dict[str, Any]:
        """Send one raw body (PNG, JPEG or JSON bytes) and give the answer.

        The answer holds `label`, `probabilities`, `model_version` and `request_id`, which is the given one or a
        new one. The body itself tells images from JSON; of content types only a form's matters, which TorchServe
        takes apart.

        Raises:
            RequestError: the server refused it, failed, or did not answer in time.
        """
        headers = {"Content-Type": content_type, "X-Request-Id": request_id or uuid.uuid4().hex}
        answer: dict[str, Any] = self._ask(self._path, body, headers)
        return answer

    def explain(
        self, body: bytes, content_type: str = "application/octet-stream", target: str | None = None
    ) -> dict[str, Any]:
        """What the answer to one raw body depends on: `target`, `score`, `attributions` and how they were found.

        `target` is the class or value to explain; None takes the answer itself.

        Raises:
            RequestError: as of `predict`.
        """
        headers = {"Content-Type": content_type, "X-Request-Id": uuid.uuid4().hex}
        if target is not None:
            headers["X-Explain-Target"] = quote(target)
        answer: dict[str, Any] = self._ask(
            self._path.replace("predictions", "explanations", 1), body, headers
        )
        return answer

    def _ask(self, path: str, body: bytes, headers: dict[str, str]) -> Any:
        """The decoded answer to a POST, after as many tries as it may have."""
        until = time.monotonic() + (self._deadline if self._retries else self._timeout)
        failed = 0
        for at in itertools.count():
            token = self._token
            try:
                return self._try(path, body, headers, token, min(self._timeout, until - time.monotonic()))
            except RequestError as error:
                failed += error.reached
                wait = max(error.after, random.uniform(0, min(LONGEST, FIRST * 2 ** min(at, 10))))  # noqa: S311
                renewed = self._renew(token) if self._retries else False
                if error.status in (400, 401) and renewed:
                    wait = 0.0
                elif not self._again(error, failed):
                    raise
                if time.monotonic() + wait >= until:
                    raise
                time.sleep(wait)
        raise AssertionError("not reached")

    def _try(self, path: str, body: bytes, headers: dict[str, str], token: str, timeout: float) -> Any:
        given = {**headers, "Authorization": f"Bearer {token}"}
        limits = httpx.Timeout(timeout, connect=min(timeout, 5.0))
        try:
            response = self._http.post(path, content=body, headers=given, timeout=limits)
            if response.status_code == httpx.codes.OK:
                return response.json()
        except httpx.TimeoutException as error:
            reached = not isinstance(error, httpx.ConnectTimeout)
            message = f"no answer from {self._http.base_url} in time"
            raise RequestError(message, reached=reached, passing=True) from None
        except httpx.HTTPError as error:
            reached = not (isinstance(error, httpx.ConnectError) and "refused" in str(error))
            passing = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
            message = f"cannot reach {self._http.base_url}: {error}"
            raise RequestError(message, reached=reached, passing=passing) from None
        except ValueError:
            raise RequestError(
                f"what {self._http.base_url} answered is no JSON", response.status_code
            ) from None
        status = response.status_code
        raise RequestError(_reason(response), status, passing=status in PASSING, after=_after(response))

    def _renew(self, used: str) -> bool:
        """Take over the token that a local server got at a restart or a rotation; whether it is another one."""
        if self._folder is not None:
            try:
                self._token = read_token(self._folder)
            except RequestError:
                return False  # not written yet
        return self._token != used

    def _again(self, error: RequestError, failed: int) -> bool:
        """Whether another try may help: a local server that does not listen comes back where someone keeps it up."""
        if not self._retries or not error.passing or failed > self._retries:
            return False
        return error.reached or self._folder is None or kept_up(self._folder)

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def plain_http(url: str) -> bool:
    """Whether there is no certificate to check: to read the system's own takes 27 ms of each new client."""
    return url.startswith("http://")


def _await_token(folder: Path, seconds: float) -> None:
    """Wait while a server starts and has no key file yet."""
    until = time.monotonic() + seconds
    while not (folder / KEY_FILE).exists() and kept_up(folder) and time.monotonic() < until:
        time.sleep(FIRST)


def _after(response: httpx.Response) -> float:
    """Seconds that `Retry-After` asks for, in either of its two forms; 0 without one."""
    given = response.headers.get("Retry-After", "")
    if given.isdecimal():
        return float(given)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return 0.0


def _reason(response: httpx.Response) -> str:
    """Our handler says `error`, TorchServe itself `message`, and netty only the status line."""
    try:
        content = response.json()
    except ValueError:
        content = None
    said = (content.get("error") or content.get("message")) if isinstance(content, dict) else None
    return f"{response.status_code}: {said or response.reason_phrase or 'no reason given'}"
