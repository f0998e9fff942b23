"""What a worker tells about its answers, to the request log and to Prometheus, without making them wait."""

from __future__ import annotations

import atexit
import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.inputs.spec import DataSpec, Transform
from serving.worker.messages import PROBE, Reply, Request
from serving.worker.metrics import Metrics
from serving.worker.options import read_options
from serving.worker.record import RequestLog

EVERY = 1.0  # seconds between writes
COUNTED = ("predict", "infer")  # kinds whose answers are predictions; a shadow's or an explanation's are not


class Reporter:
    """The request log and the metrics of one process; a thread writes both each second."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.metrics = Metrics()
        limit = read_options(state).log_bytes
        self.log = RequestLog(state, limit) if limit else None
        self._lost = 0
        threading.Thread(target=self._run, name="reporter", daemon=True).start()
        atexit.register(self.flush)

    def flush(self) -> None:
        """Write what waits; never raises."""
        if self.log:
            self.log.flush()
            self.metrics.count("fairlead_log_lost", (), self.log.lost - self._lost)
            self._lost = self.log.lost
        self.metrics.write(self.state)

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(EVERY):
            self.flush()


reporter = functools.cache(Reporter)  # one a process and state folder, whatever it serves


class Observer:
    """Reports the answers of one model in one server.

    Args:
        state: the server's state folder.
        model: the model's name.
    """

    def __init__(self, state: Path, model: str) -> None:
        self.model = model
        self._reporter = reporter(state)
        self._scales: dict[str, Scale] = {}

    def loaded(self, version: str, spec: DataSpec, bundle: Path) -> None:
        """A version can be asked from now on."""
        self._scales[version] = Scale(spec, bundle)
        self._reporter.metrics.models.add((self.model, version))

    def unloaded(self, version: str) -> None:
        """A version can be asked no more."""
        self._reporter.metrics.models.discard((self.model, version))

    def batch(
        self,
        kind: str,
        version: str,
        requests: Sequence[Request],
        replies: Sequence[Reply],
        seconds: float | None = None,
    ) -> None:
        """Report one batch of one version: requests, their replies in the same order, and what they took.

        None is no time: requests that were refused unseen are no part of latency and batch size.
        """
        metrics, model = self._reporter.metrics, (self.model, version)
        metrics.tally("fairlead_requests", (*model, kind), [str(reply.status) for reply in replies])
        if seconds is not None:
            metrics.observe("fairlead_request_seconds", (*model, kind), [seconds], len(replies))
            metrics.observe("fairlead_batch_size", (*model, kind), [len(replies)])
        pairs = list(zip(requests, replies, strict=True))
        # Our own probe asks the same again and again, which is no drift.
        good = [each for request, reply in pairs if request.id != PROBE for each in every(reply.said)]
        if kind in COUNTED and good:
            self._distribution(model, good)
        if log := self._reporter.log:
            entries = [(request.id, reply.status, told(reply)) for request, reply in pairs]
            log.add(kind, self.model, version, seconds or 0.0, entries)

    def _distribution(self, model: tuple[str, str], answers: list[Mapping[str, Any]]) -> None:
        metrics = self._reporter.metrics
        metrics.tally("fairlead_predictions", model, filter(None, map(_label, answers)))
        scale = self._scales.get(model[1])
        for output, values in scale.values(answers).items() if scale else ():
            metrics.observe("fairlead_prediction_value", (*model, output), values)


def every(said: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> Sequence[Mapping[str, Any]]:
    """The predictions of a reply: none, one, or those of many rows."""
    if isinstance(said, Mapping):
        return (said,)
    return said or ()


class Scale:
    """Turns answers into the numbers whose distribution tells drift; those of a regression by training's scale."""

    def __init__(self, spec: DataSpec, bundle: Path) -> None:
        self.task = spec.task
        path = bundle / "transform.json"
        fitted = Transform.model_validate_json(path.read_text()) if path.exists() else Transform()
        count = len(spec.outputs)
        mean = fitted.target_mean if len(fitted.target_mean) == count else (0.0,) * count
        std = fitted.target_std if len(fitted.target_std) == count else (1.0,) * count
        self.scales = {name: (mean[at], std[at] or 1.0) for at, name in enumerate(spec.outputs)}

    def values(self, answers: list[Mapping[str, Any]]) -> dict[str, list[float]]:
        """By output; none for what is generated."""
        if self.task == "classification":
            return {"confidence": [max(answer["probabilities"].values()) for answer in answers]}
        if self.task == "anomaly":
            return {"score": [answer["score"] for answer in answers]}
        if self.task == "regression":
            return {
                name: [(answer["values"][name] - mean) / std for answer in answers]
                for name, (mean, std) in self.scales.items()
            }
        return {}


def told(reply: Reply) -> Any:
    """What the request log keeps of a reply: a list where it holds many rows."""
    if reply.said is None or isinstance(reply.said, Mapping):
        return brief(reply.said)
    return [brief(each) for each in reply.said]


def brief(answer: Mapping[str, Any] | None) -> Any:
    """The label, score or value of a prediction; a list where a regression has several; None where there is none."""
    if not answer:
        return None
    if "label" in answer:
        return answer["label"]
    if "score" in answer:
        return answer["score"]
    values = list(answer.get("values", {}).values())
    return values[0] if len(values) == 1 else values or None


def _label(answer: Mapping[str, Any]) -> str | None:
    if "anomaly" in answer:
        return "anomaly" if answer["anomaly"] else "normal"
    label: str | None = answer.get("label")
    return label
