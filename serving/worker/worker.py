"""Answers batches of requests with one loaded model: the same in every server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.predictor import Predictor
from serving.worker import rows, v2
from serving.worker.explain import explain
from serving.worker.limits import Bucket
from serving.worker.messages import Reply, Request, refused
from serving.worker.observer import Observer
from serving.worker.options import read_options
from serving.worker.routing import Router

Kind = Callable[[Predictor, Sequence[Request]], list[Reply]]


KINDS: dict[str, Kind] = {"predict": rows.predict, "infer": v2.infer, "explain": explain}


class Worker:
    """One loaded model, and what it does with requests.

    Args:
        bundle: the model's bundle.
        backend: a key of `BACKENDS`.
        threads: CPU threads of one forward pass.
        state: the server's state folder; None where there is none to write to.
        name: the model's name, for the request log and the metrics.
    """

    def __init__(
        self,
        bundle: Path,
        backend: str = "onnx",
        threads: int = 1,
        state: Path | None = None,
        name: str = "model",
    ) -> None:
        self.state = state
        self.predictor = Predictor(bundle, backend, threads)
        options = read_options(state)
        self.predictor.seconds = options.response_seconds
        self.limit = Bucket(options.requests_per_second)
        self.observer = Observer(state, name) if state else None
        if self.observer:
            self.observer.loaded(self.predictor.version, self.predictor.spec, bundle)
        self.router = Router(state, name, self.predictor.version)

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of the requests; in a canary, a share of them are the challenger's."""
        return self.router.answer(requests, self.own)

    def own(self, requests: Sequence[Request]) -> list[Reply]:
        """This model's replies, those of a kind answered together; a bad one spoils no other."""
        replies: dict[int, Reply] = {}
        for kind in dict.fromkeys(request.kind for request in requests):
            places = [at for at, request in enumerate(requests) if request.kind == kind]
            asked = [requests[at] for at in places]
            granted = self.limit.take(len(asked))
            found = self.ask(kind, self.predictor, asked[:granted]) if granted else []
            replies.update(zip(places, found + self._over(kind, asked[granted:]), strict=True))
        return [replies[at] for at in range(len(requests))]

    def ask(self, kind: str, predictor: Predictor, requests: Sequence[Request]) -> list[Reply]:
        """Replies of one model to requests of one kind, reported to log and metrics."""
        began = time.perf_counter()
        replies = [refused(500, "the model failed", request) for request in requests]  # until it has not
        try:
            replies = KINDS[kind](predictor, requests)
        finally:
            if self.observer:
                self.observer.batch(kind, predictor.version, requests, replies, time.perf_counter() - began)
        return replies

    def _over(self, kind: str, requests: Sequence[Request]) -> list[Reply]:
        """Replies to requests over the limit: they are told when to come again."""
        if not requests:
            return []
        wait, rate = self.limit.wait(), self.limit.rate
        reason = f"more than {rate:g} requests a second for one worker; try again in {wait} s"
        replies = [refused(429, reason, request, {"Retry-After": str(wait)}) for request in requests]
        if self.observer:
            self.observer.batch(kind, self.predictor.version, requests, replies)
        return replies
