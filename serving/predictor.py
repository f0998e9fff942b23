"""Loads a bundle and answers with it; `evaluate`, TorchServe and the MLflow model are shells over this."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.inputs.decode import BadInput, decode
from serving.inputs.spec import read_json, read_spec

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
            answer: np.ndarray = module(torch.from_numpy(np.ascontiguousarray(batch))).numpy()
        return answer

    return forward


def pt2_forward(bundle: Path, threads: int) -> Forward:
    """The exported program (`torch.export`), on the CPU."""
    import torch

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
        self.spec = read_spec(bundle)
        manifest = bundle / "bundle.json"
        self.version = str(read_json(manifest)["version"]) if manifest.exists() else "unreleased"
        self._forward = BACKENDS[backend](bundle, threads)

    def probabilities(self, batch: np.ndarray, chunk: int = 256) -> np.ndarray:
        """Class probabilities (N, K) float32 of canonical inputs (N, C, H, W) uint8."""
        parts = [
            self._forward(np.ascontiguousarray(batch[at : at + chunk])) for at in range(0, len(batch), chunk)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.spec.classes)), np.float32)

    def answer(
        self, bodies: Sequence[bytes | dict[str, Any]], request_ids: Sequence[str] | None = None
    ) -> list[dict[str, Any] | BadInput]:
        """Answer a batch of raw bodies; a bad one yields its `BadInput` and spoils no other."""
        results: list[dict[str, Any] | BadInput] = []
        arrays: list[np.ndarray] = []
        for body in bodies:
            try:
                arrays.append(decode(body, self.spec))
                results.append({})
            except BadInput as error:
                results.append(error)
        good = [at for at, result in enumerate(results) if not isinstance(result, BadInput)]
        if good:
            for at, row in zip(good, self.probabilities(np.stack(arrays)), strict=True):
                results[at] = self.format(row, request_ids[at] if request_ids else None)
        return results

    def format(self, row: np.ndarray, request_id: str | None) -> dict[str, Any]:
        """One answer from one row of probabilities, shape (K,)."""
        answer: dict[str, Any] = {
            "label": self.spec.classes[int(row.argmax())],
            "probabilities": {name: float(p) for name, p in zip(self.spec.classes, row, strict=True)},
            "model_version": self.version,
        }
        if request_id is not None:
            answer["request_id"] = request_id
        return answer
