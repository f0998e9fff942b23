"""Bundles of every modality with graphs made by hand in milliseconds; only the equality of answers matters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from serving.inputs.spec import DataSpec, write_json
from serving.inputs.text import TOKENIZER
from tests.modalities import TEXTS

VERSION = "20c1a9e0b3f2"
KINDS = {"<f4": TensorProto.FLOAT, "<i4": TensorProto.INT32, "|u1": TensorProto.UINT8}


def write_bundle(folder: Path, spec: DataSpec, version: str = VERSION, name: str = "small") -> Path:
    """A network that adds up all steps, mixes the channels and gives one number an output; NaN counts as 0.

    Args:
        folder: is made.
        spec: says what it takes; texts get a tokenizer of their characters.
        version: of the model.
        name: of the model.
    """
    folder.mkdir(parents=True)
    column = spec.input
    text, steps = spec.modality == "text", ["T"] if column.ragged else []
    kind, width = (
        KINDS["<i4" if text else column.dtype],
        1 if text else int(np.prod(column.shape, dtype=int)),
    )
    shape: list[Any] = ["N", *steps, *([] if text else column.shape)]
    weights = np.random.default_rng(0).normal(size=(width, len(spec.outputs))).astype(np.float32) / 50
    nodes = [
        helper.make_node("Cast", ["input"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("IsNaN", ["real"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "real"], ["known"]),
        helper.make_node("Clip", ["known", "low", "high"], ["bounded"]),
    ]
    if column.ragged:
        nodes.append(
            helper.make_node("ReduceSum", ["bounded", "axis"], ["summed"], keepdims=1 if text else 0)
        )
    else:
        nodes.append(helper.make_node("Flatten", ["bounded"], ["summed"], axis=1))
    nodes.append(helper.make_node("MatMul", ["summed", "weights"], ["mixed"]))
    soft = spec.task == "classification"
    nodes.append(
        helper.make_node(
            "Softmax" if soft else "Identity", ["mixed"], ["outputs"], **({"axis": 1} if soft else {})
        )
    )
    constants = {
        "zero": np.float32(0), "low": np.float32(-100), "high": np.float32(100),
        "axis": np.array([1], np.int64), "weights": weights,
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["N", len(spec.outputs)])],
        [onnx.numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    write_json(folder / "spec.json", spec)
    write_json(folder / "bundle.json", {"version": version, "name": name, "run_id": "r"})
    if text:
        write_tokenizer(folder, TEXTS)
    return folder


def write_tokenizer(folder: Path, texts: Sequence[str]) -> None:
    """A token a character."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = sorted({letter for text in texts for letter in text})
    known = {"[pad]": 0, "[unk]": 1, **{letter: at for at, letter in enumerate(letters, 2)}}
    tokenizer = Tokenizer(models.WordLevel(known, "[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.save(str(folder / TOKENIZER))
