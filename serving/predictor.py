"""Loads a bundle and answers with it; `evaluate`, TorchServe and the MLflow model are shells over this."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.inputs import generation
from serving.inputs.decode import BadInput, decoder
from serving.inputs.ragged import Ragged, Rows, filling, gather
from serving.inputs.spec import DataSpec, read_json, read_spec

CHUNK, RAGGED_CHUNK = 256, 64  # rows of a batch; attention takes memory by the square of their length
Forward = Callable[[np.ndarray], np.ndarray]


def onnx_forward(bundle: Path, threads: int) -> Forward:
    """The exported graph under ONNX Runtime, on the CPU."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default since 1.32, and read at import
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def _torch_forward(module: Any, threads: int) -> Forward:
    import torch

    torch.set_num_threads(threads)

    def forward(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            answer: np.ndarray = module(torch.from_numpy(np.require(batch, requirements=["C", "W"]))).numpy()
        return answer

    return forward


def pt2_forward(bundle: Path, threads: int) -> Forward:
    """The exported program (`torch.export`), on the CPU."""
    import torch

    from serving.program import check_program

    check_program(bundle / "model.pt2")
    return _torch_forward(torch.export.load(bundle / "model.pt2").module(), threads)


def eager_forward(bundle: Path, threads: int) -> Forward:
    """The network's own code with `weights.safetensors`, on the CPU; needs the `models` package."""
    from models.served import load

    return _torch_forward(load(bundle), threads)


BACKENDS: dict[str, Callable[[Path, int], Forward]] = {
    "onnx": onnx_forward,
    "pt2": pt2_forward,
    "eager": eager_forward,
}


class Predictor:
    """A loaded model: raw bodies in, answers out.

    Args:
        bundle: folder with `spec.json` and what the backend needs.
        backend: a key of `BACKENDS`.
        threads: CPU threads of one forward pass.
    """

    def __init__(self, bundle: Path, backend: str = "onnx", threads: int = 1) -> None:
        self.folder = bundle
        self.seconds = 10.0  # that whoever waits for a batch has; less is spent on what can be refused
        self.spec = read_spec(bundle)
        manifest = read_json(bundle / "bundle.json") if (bundle / "bundle.json").exists() else {}
        self.version = str(manifest.get("version", "unreleased"))
        self.name = str(manifest.get("name", "model"))
        self._forward = BACKENDS[backend](bundle, threads)
        self.decode = decoder(self.spec, bundle)

    def outputs(self, rows: Rows, chunk: int | None = None) -> np.ndarray:
        """Class probabilities (N, K), values (N, M) or images (N, 2 + C * H * W), float32, `chunk` rows at a time.

        Rows of unequal length are taken by their length, as what a batch is padded to is computed for all of it.
        """
        order = np.argsort(rows.lengths, kind="stable") if isinstance(rows, Ragged) else None
        size = chunk or (CHUNK if order is None else RAGGED_CHUNK)
        pieces = (slice(at, at + size) for at in range(0, len(rows), size))
        parts = [
            self._forward(self._batch(rows[piece if order is None else order[piece]])) for piece in pieces
        ]
        found = np.concatenate(parts) if parts else np.zeros((0, len(self.spec.outputs)), np.float32)
        return found if order is None else found[np.argsort(order)]

    def _batch(self, rows: Rows) -> np.ndarray:
        """One array of a whole batch, rows of unequal length padded at their end."""
        if isinstance(rows, Ragged):
            return rows.padded(filling(self.spec.input.dtype))
        return np.ascontiguousarray(rows)

    def answer(
        self, bodies: Sequence[bytes | dict[str, Any]], request_ids: Sequence[str] | None = None
    ) -> list[dict[str, Any] | BadInput]:
        """Answer a batch of raw bodies; a bad one yields its `BadInput` and spoils no other."""
        results: list[dict[str, Any] | BadInput] = []
        arrays: list[np.ndarray] = []
        for body in bodies:
            try:
                arrays.append(self.decode(body))
                results.append({})
            except BadInput as error:
                results.append(error)
        good = [at for at, result in enumerate(results) if not isinstance(result, BadInput)]
        if good:
            for at, row in zip(good, self.outputs(gather(arrays, self.spec.input)), strict=True):
                results[at] = self.format(row, request_ids[at] if request_ids else None)
        return results

    def format(self, row: np.ndarray, request_id: str | None) -> dict[str, Any]:
        """One answer from one row of outputs, shape (K,) or (M,)."""
        answer = {**named(self.spec, row), "model_version": self.version}
        if request_id is not None:
            answer["request_id"] = request_id
        return answer


def named(spec: DataSpec, row: np.ndarray) -> dict[str, Any]:
    """What one row of outputs says.

    `label` and `probabilities` of a classifier; `values` of a regression's targets; `anomaly`, `score` (above 1 is
    an anomaly) and `embedding` of an autoencoder; `label`, `seed` and `image` of a generator.
    """
    if spec.task == "generation":
        return generation.told(row, spec)
    if spec.task == "anomaly":
        score, *embedding = map(float, row)
        return {"anomaly": score > 1, "score": score, "embedding": embedding}
    values = dict(zip(spec.outputs, row.tolist(), strict=True))
    if spec.task == "classification":
        return {"label": spec.classes[int(row.argmax())], "probabilities": values}
    return {"values": values}


def numbers(spec: DataSpec, answer: dict[str, Any]) -> list[float]:
    """The row of outputs that an answer was made from; pixels of an image are rounded, see `rounding`."""
    if spec.task == "generation":
        return generation.heard(answer, spec)
    if spec.task == "anomaly":
        return [answer["score"], *answer["embedding"]]
    said = answer["probabilities" if spec.task == "classification" else "values"]
    return [said[name] for name in spec.outputs]


def rounding(spec: DataSpec) -> float:
    """How far `numbers` of an answer may lie from the outputs: half a grey level of an image."""
    return 0.5 if spec.task == "generation" else 0.0
