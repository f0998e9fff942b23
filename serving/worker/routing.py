"""Which requests a challenger answers: a canary's share, or the copies of a shadow.

The champion's workers route, so TorchServe's port stays the endpoint and every other request keeps its full speed;
the challenger answers in processes of its own. A route is a lease: when nobody renews it, it ends by itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serving.worker.hop import STEP, Answer, Breaker, Hop
from serving.worker.messages import Reply, Request
from serving.worker.route import MARK, ROUTES, Arm, Route, read_route
from serving.worker.shadow import Shadow
from serving.worker.trial_log import TrialLog

Own = Callable[[Sequence[Request]], list[Reply]]


class Router:
    """Routes the batches of one worker, if its model is the champion of a route.

    Args:
        state: the server's state folder; None routes nothing.
        name: the worker's model.
        version: its version.
    """

    def __init__(self, state: Path | None, name: str, version: str) -> None:
        self._model = (name, version)
        self._file = state / ROUTES if state else None
        self._seen: tuple[int, ...] | None = None
        self._known: Route | None = None
        self._passes = 0
        if state:
            self._log = TrialLog(state)
            self._hop = Hop(state)
            self._breaker = Breaker()
            self._shadow = Shadow(Hop(state), self._log)

    def answer(self, requests: Sequence[Request], own: Own) -> list[Reply]:
        """Replies in the order of the requests; `own` is what this worker answers by itself."""
        route = self.route()
        if route is None:
            return (
                self._timed(requests, own)
                if any(MARK in each.headers for each in requests)
                else own(requests)
            )
        arms: dict[Arm, list[int]] = {"challenger": [], "control": [], "rest": []}
        for at, request in enumerate(requests):
            arms[route.arm(request)].append(at)
        if not self._breaker.closed(route.salt):
            return own(requests)  # and none of it is observed, so that the arms stay comparable
        groups = {arm: [requests[at] for at in places] for arm, places in arms.items()}
        replies = self._answered(route, groups, own)
        found = {at: reply for arm in arms for at, reply in zip(arms[arm], replies[arm], strict=True)}
        return [found[at] for at in range(len(requests))]

    def route(self) -> Route | None:
        """The route in force here, read anew when its file changes: one stat a batch."""
        if self._file is None:
            return None
        try:
            stat = self._file.stat()
        except OSError:
            self._seen = self._known = None
            return None
        if (seen := (stat.st_mtime_ns, stat.st_ino, stat.st_size)) != self._seen:
            self._seen, self._known = seen, None
            try:
                self._known = read_route(self._file.read_text())
            except (OSError, ValueError) as error:
                logging.getLogger(__name__).warning("%s is not followed: %s", self._file, error)
        known = self._known
        mine = known and (known.model, known.champion) == self._model and time.time() < known.until
        return known if mine else None

    def _answered(
        self, route: Route, groups: Mapping[Arm, list[Request]], own: Own
    ) -> dict[Arm, list[Reply]]:
        """Replies of each arm: the challenger works while the champion does."""
        began = time.monotonic()
        sent = self._hop.send(route, groups["challenger"])
        try:
            control = self._control(route, groups["control"], own)
            rest = own(groups["rest"]) if groups["rest"] else []
        except BaseException:
            self._hop.forget(sent)
            raise
        answers = self._hop.collect(route, sent, began + route.timeout_ms / 1000)
        self._breaker.heard(route.salt, answers)
        lost = [at for at, answer in enumerate(answers) if not isinstance(answer, Answer)]
        helped = own([groups["challenger"][at] for at in lost]) if lost else []
        instead = dict(zip(lost, helped, strict=True))
        verdicts = [instead[at].status if at in instead else 200 for at in range(len(answers))]
        self._log.challenger(route, groups["challenger"], answers, verdicts)
        passed = [
            answer.reply if isinstance(answer, Answer) else instead[at] for at, answer in enumerate(answers)
        ]
        return {"challenger": passed, "control": control, "rest": rest}

    def _control(self, route: Route, requests: list[Request], own: Own) -> list[Reply]:
        """The control group in a pass of its own, as the challenger's share is one, before any other warms caches."""
        if not requests:
            return []
        began = time.perf_counter()
        try:
            replies = own(requests)
        except Exception:
            self._log.broken(route, requests)
            raise
        self._log.control(route, requests, replies, (time.perf_counter() - began) * 1000)
        if route.mode == "shadow":
            self._shadow.copy(route, requests, replies)
        return replies

    def _timed(self, requests: Sequence[Request], own: Own) -> list[Reply]:
        """The challenger's side: each answer tells which pass it came from, how large that was, and its time."""
        began = time.perf_counter()
        replies = own(requests)
        took = (time.perf_counter() - began) * 1000
        self._passes += 1
        told = {STEP: f"{os.getpid()}-{self._passes};{len(requests)};{took:.4f}"}
        return [
            Reply(reply.status, reply.body, reply.content_type, {**reply.headers, **told})
            if MARK in request.headers
            else reply
            for request, reply in zip(requests, replies, strict=True)
        ]
