"""Answers batches of requests with one loaded model: the same in every server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from serving.predictor import Predictor
from serving.worker import v2
from serving.worker.messages import Reply, Request, answered, refused

Kind = Callable[[Predictor, Sequence[Request]], list[Reply]]


def predict(predictor: Predictor, requests: Sequence[Request]) -> list[Reply]:
    """Predictions of raw bodies in one forward pass; a body that cannot be decoded gets its own 400."""
    answers = predictor.answer([request.body for request in requests], [request.id for request in requests])
    return [
        answered(answer) if isinstance(answer, dict) else refused(400, answer, request)
        for request, answer in zip(requests, answers, strict=True)
    ]


KINDS: dict[str, Kind] = {"predict": predict, "infer": v2.infer}


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
