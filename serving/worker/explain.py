"""Explanations by occlusion (Zeiler and Fergus 2014, captum's): how far an answer falls when a part is hidden.

The worker holds an ONNX graph, which has no gradients, so parts of the input are hidden in turn. A positive score means
that the part speaks for what is explained. How many parts there are follows from how long the model takes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import unquote

import numpy as np

from serving.inputs.body import BadInput, is_json, parse_json
from serving.inputs.ragged import gather
from serving.inputs.spec import DataSpec
from serving.predictor import Predictor
from serving.worker.messages import Body, Reply, Request, answered, limited, refused
from serving.worker.occluding import View, views_of
from serving.worker.rows import NOT_FINITE, SHARE, rows_in

TARGET = "x-explain-target"
FEWEST, MOST = 16, 400  # forward passes of one explanation
PIECE = 32  # passes that share a batch
WAIT = 0.2  # of the time that a batch has, for captum
METHOD = "occlusion"


class Busy(BadInput):
    """There is no time left of the batch's, and there would be alone."""


def explain(predictor: Predictor, requests: Sequence[Request]) -> list[Reply]:
    """Explanations of single inputs; one that cannot be explained gets its own reason."""
    if not loaded(WAIT * predictor.seconds):
        reason = "captum is being loaded; ask again"
        return [refused(503, reason, request, {"Retry-After": "2"}) for request in requests]
    deadline = time.monotonic() + SHARE * predictor.seconds
    replies: list[Reply] = []
    for done, request in enumerate(requests):
        seconds = (deadline - time.monotonic()) / (len(requests) - done)
        try:
            body, target = _asked(request, predictor.spec)
            told = explained(predictor, body, target, seconds)
            head = {"model_version": predictor.version, "request_id": request.id}
            replies.append(limited(answered({**told, **head}), request))
        except Busy as error:
            replies.append(refused(503, error, request, {"Retry-After": "1"}))
        except BadInput as error:
            replies.append(refused(400, error, request))
    return replies


@cache
def _loading() -> threading.Thread:
    thread = threading.Thread(target=import_module, args=("captum.attr",), name="captum", daemon=True)
    thread.start()
    return thread


def loaded(seconds: float) -> bool:
    """Whether captum is there, after a wait; with torch it may take as long as a worker has on a busy machine."""
    thread = _loading()
    thread.join(max(seconds, 0.0))
    return not thread.is_alive()


def _asked(request: Request, spec: DataSpec) -> tuple[Body, str | None]:
    """The body to explain, and what about it: by the header, or beside the only one of `instances`."""
    target: Any = unquote(request.headers[TARGET]) if TARGET in request.headers else None
    body = request.body
    if is_json(body) and (isinstance(body, dict) or b'"instances"' in body):
        content = parse_json(body)
        if isinstance(content, dict) and content.keys() == {"instances", "target"}:
            target = content.pop("target")
            body = json.dumps(content).encode()
    if target is not None and not isinstance(target, str):
        raise BadInput(f"'target' must be a string; found {type(target).__name__}")
    many = rows_in(body, spec) if spec.task != "generation" else None
    if many is not None and len(many) != 1:
        raise BadInput(f"one input is explained at a time; found {len(many)}")
    return (many[0] if many else body), target


def explained(predictor: Predictor, body: Body, target: str | None, seconds: float) -> dict[str, Any]:
    """What an answer depends on.

    Raises:
        BadInput: the model makes images, the body cannot be decoded, there is no such target, or never enough time.
        Busy: there is not enough time now.
    """
    spec = predictor.spec
    if spec.task == "generation":
        raise BadInput("a model that makes images has no answer about an input that could be explained")
    view_in = views_of(predictor, body)
    whole = view_in(FEWEST)
    taken = []
    for _ in range(2):  # the first is slow
        began = time.monotonic()
        outputs = _outputs(predictor, whole, np.ones((1, *whole.shape), np.float32))[0]
        taken.append(time.monotonic() - began)
    if not np.isfinite(outputs).all():
        raise BadInput(NOT_FINITE)
    one = min(taken)
    place = _target(spec, outputs, target)
    passes = int(min(MOST, seconds / max(one, 1e-6)))
    if passes < FEWEST:
        if one * FEWEST < SHARE * predictor.seconds:
            raise Busy("too many explanations at once; ask again")
        raise BadInput(
            f"the model takes {one:.2f} s for an answer, which leaves too little time to explain it"
        )
    view = view_in(passes)
    scores = attribute(view, lambda masks: _outputs(predictor, view, masks)[:, place])
    if not np.isfinite(scores).all():
        raise BadInput(NOT_FINITE)
    return {
        "target": spec.outputs[place],
        "score": float(outputs[place]),
        "method": METHOD,
        "baseline": view.baseline,
        "window": list(view.window) if view.window else None,
        **view.tell(scores),
    }


def _target(spec: DataSpec, outputs: np.ndarray, target: str | None) -> int:
    """Which output is explained: the class with the highest probability, the first value, the anomaly's score."""
    if target is None:
        return int(outputs.argmax()) if spec.task == "classification" else 0
    if target not in spec.outputs:
        known = ", ".join(spec.outputs[:20]) + (", ..." if len(spec.outputs) > 20 else "")
        raise BadInput(f"there is no target {target!r}; expected one of {known}")
    return spec.outputs.index(target)


def _outputs(predictor: Predictor, view: View, masks: np.ndarray) -> np.ndarray:
    return predictor.outputs(gather([view.row(mask) for mask in masks], predictor.spec.input))


def attribute(view: View, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """How much of `value` of masks (N, *shape) each place of a mask is worth."""
    import torch
    from captum.attr import FeatureAblation, Occlusion

    def forward(masks: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(value(masks.numpy()), np.float32))

    kept = torch.ones(1, *view.shape)
    if view.window is not None:
        found = Occlusion(forward).attribute(kept, view.window, view.stride, 0, perturbations_per_eval=PIECE)
    else:
        groups = torch.from_numpy(view.groups)[None]
        found = FeatureAblation(forward).attribute(kept, 0, feature_mask=groups, perturbations_per_eval=PIECE)
    scores: np.ndarray = found[0].numpy()
    return scores
