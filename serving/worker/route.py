"""A route: what `routes.json` says of a canary or a shadow, and which arm of it a request falls into."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from serving.worker.messages import PROBE, Request

ROUTES = "routes.json"
MARK = "x-fairlead-route"  # a request that brings it, whatever it says, is routed nowhere
LOCAL = ("127.0.0.1", "localhost", "::1")
Arm = Literal["challenger", "control", "rest"]


@dataclass(frozen=True)
class Route:
    """What `routes.json` says.

    Args:
        model: the model's name.
        champion: version whose workers route.
        challenger: version that is tried.
        mode: 'canary', where the challenger answers a share, or 'shadow', where it answers nobody.
        share: of all requests, which go to the challenger (or are copied).
        salt: secret of this one trial, so that nobody can choose an arm by choosing a request id; also its name.
        until: seconds since 1970; later the route is none.
        url: the server's own address on loopback.
        timeout_ms: longest wait for the challenger, which the whole batch of the champion shares.
    """

    model: str
    champion: str
    challenger: str
    mode: Literal["canary", "shadow"]
    share: float
    salt: str
    until: float
    url: str
    timeout_ms: int = 500

    def __post_init__(self) -> None:
        if self.mode not in ("canary", "shadow") or not 0 <= self.share <= 1 or self.timeout_ms <= 0:
            raise ValueError(f"no usable route: {self}")
        if urlsplit(self.url).hostname not in LOCAL:
            raise ValueError(f"a route leads to loopback only, not to {self.url}")
        if not (self.salt.isalnum() and self.challenger != self.champion):
            raise ValueError("a route needs a salt of letters and digits, and two versions that differ")

    def place(self, request_id: str) -> float:
        """Where a request's id falls, uniform in [0, 1), the same in every process."""
        digest = hashlib.blake2b(request_id.encode(), key=self.salt.encode()[:64], digest_size=8).digest()
        return int.from_bytes(digest) / 2**64

    def arm(self, request: Request) -> Arm:
        """Who answers it. `control` is as large as the challenger's share, to compare like with like."""
        if (
            request.kind != "predict"
            or not isinstance(request.body, bytes)
            or MARK in request.headers
            or request.id == PROBE
        ):
            return "rest"
        return self.arm_of(request.id)

    def arm_of(self, request_id: str) -> Arm:
        """Who answers a request that takes part."""
        place = self.place(request_id)
        if self.mode == "shadow":
            return "control" if place < self.share else "rest"
        return "challenger" if place < self.share else "control" if place < 2 * self.share else "rest"


def read_route(text: str) -> Route:
    """A route from JSON.

    Raises:
        ValueError: it is none; says why.
    """
    try:
        return Route(**json.loads(text))
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None
