"""Bundles of models whose answer depends on a part of their input that is known: a patch, a column, steps, a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx.parser import parse_model

from serving.inputs.spec import (
    Column,
    DataSpec,
    ImageInput,
    SeriesInput,
    TableField,
    TableInput,
    TextInput,
    write_json,
)

PATCH = (slice(4, 10), slice(16, 22))  # rows and columns of an image that decide
COLUMN = "income"
STEPS, CHANNEL = slice(6, 10), 1  # of a series
WORD = "terrible"
VOCABULARY = ("[PAD]", "[UNK]", "the", "food", "was", WORD, "and", "good", ",", "very")
CLASSES = ("no", "yes")
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
# What ends each graph: `m` (N,) becomes the probabilities of no and yes.
SURE = """
  half = Constant <value = float {0.5}> ()
  eight = Constant <value = float {8.0}> ()
  one = Constant <value = float {1.0}> ()
  last = Constant <value = int64[1] {1}> ()
  c = Sub (m, half)
  s = Mul (c, eight)
  p = Sigmoid (s)
  q = Sub (one, p)
  pu = Unsqueeze (p, last)
  qu = Unsqueeze (q, last)
  out = Concat <axis = 1> (qu, pu)
"""
GRAPHS = {
    "image": """image_model (uint8[N, C, 28, 28] image) => (float[N, 2] out) {
  x = Cast <to = 1> (image)
  starts = Constant <value = int64[2] {4, 16}> ()
  ends = Constant <value = int64[2] {10, 22}> ()
  axes = Constant <value = int64[2] {2, 3}> ()
  patch = Slice (x, starts, ends, axes)
  full = Constant <value = float {255.0}> ()
  part = Div (patch, full)
  m = ReduceMean <axes = [1, 2, 3], keepdims = 0> (part)
""",
    "table": """table_model (float[N, 4] row) => (float[N, 2] out) {
  at = Constant <value = int64 {1}> ()
  v = Gather <axis = 1> (row, at)
  gone = IsNaN (v)
  zero = Constant <value = float {0.0}> ()
  m = Where (gone, zero, v)
""",
    "series": """series_model (float[N, T, 2] series) => (float[N, 2] out) {
  starts = Constant <value = int64[2] {6, 1}> ()
  ends = Constant <value = int64[2] {10, 2}> ()
  axes = Constant <value = int64[2] {1, 2}> ()
  part = Slice (series, starts, ends, axes)
  gone = IsNaN (part)
  zero = Constant <value = float {0.0}> ()
  held = Where (gone, zero, part)
  m = ReduceMean <axes = [1, 2], keepdims = 0> (held)
""",
    "text": """text_model (int32[N, T] tokens) => (float[N, 2] out) {
  table = Constant <value = float[10] {0, 0, 0, 0, 0, 1, 0, 0, 0, 0}> ()
  f = Gather <axis = 0> (table, tokens)
  m = ReduceMax <axes = [1], keepdims = 0> (f)
""",
}
FIELDS = (
    TableField(name="age", kind="number"),
    TableField(name=COLUMN, kind="number"),
    TableField(name="member", kind="boolean"),
    TableField(name="colour", kind="category", categories=("red", "green")),
)
INPUTS = {
    "image": Column(name="image", role="input", dtype="|u1", shape=(1, 28, 28)),
    "table": Column(name="row", role="input", dtype="<f4", shape=(4,)),
    "series": Column(name="series", role="input", dtype="<f4", shape=(2,), ragged=True),
    "text": Column(name="tokens", role="input", dtype="<i4", ragged=True),
}
TAKES = {
    "image": ImageInput(),
    "table": TableInput(fields=FIELDS),
    "series": SeriesInput(channels=("left", "right"), max_steps=64),
    "text": TextInput(max_tokens=32),
}


def spec_of(modality: str, task: str = "classification", channels: int = 1) -> DataSpec:
    """The spec of a planted model."""
    target = {"name": "label", "role": "target", "dtype": "<i8"}
    if task == "regression":
        target = {"name": "target", "role": "target", "dtype": "<f4", "shape": (2,)}
    column, takes = INPUTS[modality], TAKES[modality]
    if modality == "image":
        column = column.model_copy(update={"shape": (channels, 28, 28)})
        takes = ImageInput.model_validate({"channels": channels})
    named = {"classification": {"classes": CLASSES}, "regression": {"targets": CLASSES}}.get(task, {})
    return DataSpec.model_validate(
        {"modality": modality, "task": task, "source": "planted", "columns": (column, target),
         modality: takes, **named}
    )  # fmt: skip


def planted(folder: Path, modality: str, task: str = "classification", channels: int = 1) -> Path:
    """A bundle whose `yes` follows `PATCH`, `COLUMN`, `STEPS` of `CHANNEL` or `WORD` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(parse_model(HEAD + GRAPHS[modality] + SURE + "}"), folder / "model.onnx")
    write_json(folder / "spec.json", spec_of(modality, task, channels))
    write_json(folder / "bundle.json", {"name": modality, "version": "1234abcd"})
    if modality == "text":
        write_words(folder)
    return folder


GENERATOR = """generator (float[N, 6] request) => (float[N, 786] out) {
  zero = Constant <value = int64[1] {0}> ()
  one = Constant <value = int64[1] {1}> ()
  two = Constant <value = int64[1] {2}> ()
  head = Slice (request, zero, two, one)
  label = Slice (request, zero, one, one)
  fifty = Constant <value = float {50.0}> ()
  grey = Mul (label, fifty)
  times = Constant <value = int64[2] {1, 784}> ()
  pixels = Tile (grey, times)
  out = Concat <axis = 1> (head, pixels)
}"""


def generator(folder: Path) -> Path:
    """A bundle that makes an image of one grey for each class."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(parse_model(HEAD + GENERATOR), folder / "model.onnx")
    spec = spec_of("image").model_copy(update={"task": "generation"})
    write_json(folder / "spec.json", spec)
    write_json(folder / "bundle.json", {"name": "grey", "version": "1234abcd"})
    write_json(folder / "model.json", {"latent": 4})
    return folder


def write_words(folder: Path) -> None:
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))


def picture(bright: bool = True, channels: int = 1, seed: int = 0) -> np.ndarray:
    """An image (C, 28, 28) uint8 of noise, its patch bright or dark."""
    image = np.random.default_rng(seed).integers(60, 120, (channels, 28, 28)).astype(np.uint8)
    image[:, *PATCH] = 250 if bright else 5
    return image
