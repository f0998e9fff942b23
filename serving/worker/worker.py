"""Answers batches of requests with one loaded model: the same in every server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from serving.predictor import Predictor
from serving.worker import rows, v2
from serving.worker.explain import explain
from serving.worker.messages import Reply, Request

Kind = Callable[[Predictor, Sequence[Request]], list[Reply]]


KINDS: dict[str, Kind] = {"predict": rows.predict, "infer": v2.infer, "explain": explain}


class Worker:
    """One loaded model, and what it does with requests.

    Args:
        bundle: the model's bundle.
        backend: a key of `BACKENDS`.
        threads: CPU threads of one forward pass.
        state: the server's state folder; None where there is none to write to.
    """

    def __init__(
        self, bundle: Path, backend: str = "onnx", threads: int = 1, state: Path | None = None
    ) -> None:
        self.state = state
        self.predictor = Predictor(bundle, backend, threads)

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of the requests, those of a kind answered together; a bad one spoils no other."""
        replies: dict[int, Reply] = {}
        for kind in dict.fromkeys(request.kind for request in requests):
            places = [at for at, request in enumerate(requests) if request.kind == kind]
            found = KINDS[kind](self.predictor, [requests[at] for at in places])
            replies.update(zip(places, found, strict=True))
        return [replies[at] for at in range(len(requests))]
