"""Tells a server that answers from one that only lives, and gives back the workers that TorchServe gave up."""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx

from serving.client import Client, plain_http
from serving.endpoint import Endpoint, RequestError, read_endpoint, read_token
from serving.management import Registered
from serving.servers import management
from serving.settings import ServerError, ServerSettings
from serving.state import Served, golden_requests, read_models
from serving.worker.messages import PROBE

LOOK, SOON = 5.0, 1.0  # seconds between two looks, and after one at a silent server
SILENCE = 5.0  # seconds in which the server must say something, where `response_timeout` is not shorter
SILENT, FAILED = 2, 3  # looks in a row that it may be silent; requests that ready workers may fail
ALIVE = {400, 413, 422, 429}
ANSWERED = re.compile(
    r'^ts_inference_latency_microseconds\{[^}]*\bmodel_name="([^"]+)"[^}]*\} ([0-9.eE+]+)$', re.MULTILINE
)


class Health:
    """Looks at a server from time to time.

    Where real requests were answered since the last look, nothing is asked. Otherwise each model must answer a golden
    request. TorchServe itself starts dead and hung workers again, and needs time for it, so that only these are
    taken for ill: a server that says nothing, ready workers that answer nothing, and no ready worker for as long as one
    may take to load.
    """

    def __init__(self, folder: Path, settings: ServerSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._silence = max(2.0, min(SILENCE, settings.response_timeout))
        self._silent = 0
        self._counters: dict[str, float] = {}
        self._failing: dict[str, tuple[int, float]] = {}  # requests that failed in a row, and since when
        self._short: dict[str, float] = {}  # since when a model has too few workers
        self._patience = settings.start_timeout + settings.response_timeout

    @property
    def period(self) -> float:
        """Seconds until the next look."""
        return SOON if self._silent else LOOK

    def look(self) -> str | None:
        """What is wrong, where only a restart helps.

        Raises:
            ServerError: it cannot be told, as `models.json` is damaged.
        """
        try:
            endpoint = read_endpoint(self._folder)
            counters = _counters(endpoint, self._silence)
        except (RequestError, httpx.HTTPError):
            self._silent += 1
            return f"the server said nothing for {self._silent} looks" if self._silent >= SILENT else None
        self._silent = 0
        for name, served in read_models(self._folder).models.items():
            answered = counters.get(name, 0.0) != self._counters.get(name, 0.0)
            if answered or self._answers(endpoint, name, served):
                self._failing.pop(name, None)
                self._complete(name, served.default)
            elif wrong := self._failed(name, served.default):
                return wrong
        self._counters = counters
        return None

    def _answers(self, endpoint: Endpoint, name: str, served: Served) -> bool:
        """Whether a worker answered a real request; a refusal is an answer too, but not that there is no such model."""
        try:
            body, kind, _ = golden_requests(served.versions[served.default])[0]
        except (ServerError, IndexError):
            body, kind = b"", "application/octet-stream"  # a 400 with the worker's reason
        try:
            timeout = self._settings.response_timeout + SILENCE
            with Client(endpoint.url, read_token(self._folder), name, timeout, retries=0) as client:
                client.predict(body, kind, PROBE)
        except RequestError as error:
            return error.status in ALIVE
        return True

    def _failed(self, name: str, version: str) -> str | None:
        count, since = self._failing.get(name, (0, time.monotonic()))
        self._failing[name] = (count + 1, since)
        found = self._registered(name, version)
        ready = found.ready if found else 0
        if ready and count + 1 >= FAILED:
            return f"{ready} ready workers of {name} answered none of {count + 1} requests"
        waited = time.monotonic() - since
        return f"{name} has had no worker for {waited:.0f} s" if waited > self._patience else None

    def _complete(self, name: str, version: str) -> None:
        """Start workers for those that TorchServe gave up, which it does after five minutes of failures."""
        found = self._registered(name, version)
        missing = found.min_workers - found.ready if found else 0
        if found is None or missing <= 0:
            self._short.pop(name, None)
        elif time.monotonic() - self._short.setdefault(name, time.monotonic()) > self._patience:
            self._short.pop(name)
            with management(self._folder) as side:
                side.scale(name, version, len(found.workers) + missing)

    def _registered(self, name: str, version: str) -> Registered | None:
        try:
            with management(self._folder, SILENCE) as side:
                return side.version(name, version)
        except (ServerError, RequestError):
            return None


def _counters(endpoint: Endpoint, seconds: float) -> dict[str, float]:
    """Microseconds that each model has spent on answers: they grow with each answer, and with no failure."""
    url = endpoint.metrics_url
    text = httpx.get(f"{url}/metrics", timeout=seconds, trust_env=False, verify=not plain_http(url)).text
    found: dict[str, float] = {}
    for name, value in ANSWERED.findall(text):
        found[name] = found.get(name, 0.0) + float(value)
    return found
