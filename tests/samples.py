"""Data of every modality for tests of networks: specs, fitted transforms, rows and whole networks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer

from models import MODELS
from models.minilm import Front, MiniLM, Size
from models.params import Model
from models.served import Served
from models.transfer import TRUNKS, Transfer, Trunk
from pipeline.fitting.pretrained import weights_file
from serving.inputs.spec import (
    Column,
    DataSpec,
    ImageInput,
    SeriesInput,
    TableField,
    TableInput,
    TextInput,
    Transform,
)
from serving.inputs.text import TOKENIZER

CLASSES = tuple("abcde")
TARGETS = ("height", "weight")
SHAPE = (3, 33, 17)  # of images: no side is a multiple of the other's patch, pool or stride
TOKENS = 40
PAIRS = [
    (family, modality)
    for family, network in MODELS.items()
    if "classification" in network.tasks
    for modality in network.modalities
]
RAGGED = [(family, modality) for family, modality in PAIRS if modality in ("series", "text")]
INPUTS = {
    "image": Column(name="image", role="input", dtype="|u1", shape=SHAPE),
    "table": Column(name="row", role="input", dtype="<f4", shape=(5,)),
    "series": Column(name="steps", role="input", dtype="<f4", shape=(3,), ragged=True),
    "text": Column(name="tokens", role="input", dtype="<i4", ragged=True),
}
FIELDS = (
    *(TableField(name=name, kind="number") for name in ("age", "size", "price")),
    *(TableField(name=name, kind="category", categories=("x", "y", "z")) for name in ("colour", "shape")),
)


def spec_of(modality: str, task: str = "classification", fields: tuple[TableField, ...] = FIELDS) -> DataSpec:
    """The spec of a modality's samples."""
    target = {"name": "label", "role": "target", "dtype": "<i8"}
    if task == "regression":
        target = {"name": "target", "role": "target", "dtype": "<f4", "shape": (len(TARGETS),)}
    column = INPUTS[modality]
    if modality == "table":
        column = column.model_copy(update={"shape": (len(fields),)})
    takes = {
        "image": ImageInput(channels=3, height=SHAPE[1], width=SHAPE[2]),
        "table": TableInput(fields=fields),
        "series": SeriesInput(channels=("x", "y", "z")),
        "text": TextInput(max_tokens=64),
    }
    named = {"classes": CLASSES} if task == "classification" else {"targets": TARGETS}
    return DataSpec.model_validate(
        {"modality": modality, "task": task, "source": "test", "columns": (column, target),
         modality: takes[modality], **named}
    )  # fmt: skip


def transform_of(spec: DataSpec) -> Transform:
    """A fitted transform as `prepare` writes it."""
    scales: dict[str, object] = {}
    if spec.modality == "text":
        scales = {"tokens": TOKENS}
    elif spec.table is not None:
        count = len(spec.table.numbers)
        known = tuple((True,) * (len(field.categories) + 1) for field in spec.table.categories)
        scales = {"mean": (1.0, 2.0, 3.0)[:count], "std": (2.0, 1.0, 3.0)[:count], "known": known}
    else:
        scale = 50.0 if spec.modality == "image" else 1.0
        scales = {"mean": (2 * scale, scale, 0.0), "std": (scale, 2 * scale, scale)}
    if spec.task == "regression":
        scales |= {"target_mean": (170.0, 70.0), "target_std": (10.0, 8.0)}
    return Transform.model_validate(scales)


def rows_of(spec: DataSpec, count: int, steps: int = 9, seed: int = 1) -> torch.Tensor:
    """A batch of canonical inputs; series and texts of 1 to `steps` steps, the first the longest, padded."""
    draw = np.random.default_rng(seed)
    if spec.modality == "image":
        return torch.from_numpy(draw.integers(0, 256, (count, *spec.input_shape), dtype=np.uint8))
    if spec.table is not None:
        numbers = draw.normal(2, 2, (count, len(spec.table.numbers)))
        numbers[draw.random(numbers.shape) < 0.2] = np.nan
        codes = draw.integers(0, 4, (count, len(spec.table.categories)))
        return torch.from_numpy(np.concatenate([numbers, codes], axis=1).astype(np.float32))
    lengths = steps - np.arange(count) % steps
    over = np.arange(steps) >= lengths[:, None]
    if spec.modality == "text":
        tokens = draw.integers(1, TOKENS, (count, steps), dtype=np.int32)
        return torch.from_numpy(np.where(over, 0, tokens).astype(np.int32))
    series = draw.normal(1, 2, (count, steps, *spec.input_shape)).astype(np.float32)
    series[draw.random(series.shape) < 0.1] = np.nan
    series[np.arange(count), lengths - 1, 0] = 1.0  # the last step holds something
    series[over] = np.nan
    return torch.from_numpy(series)


def padded(rows: torch.Tensor, more: int) -> torch.Tensor:
    """Series or texts with so many more steps of padding."""
    fill = float("nan") if rows.is_floating_point() else 0
    return torch.cat([rows, rows.new_full((len(rows), more, *rows.shape[2:]), fill)], dim=1)


def params_of(family: str, **more: object) -> Model:
    """A small network's parameters."""
    given = {"family": family, "width": 8, "depth": 2, "dropout": 0.0, "heads": 2, "kernel": 3, **more}
    return Model.model_validate(given)


def served_of(params: Model, spec: DataSpec, seed: int = 0) -> Served:
    """A network as built from a seed."""
    torch.manual_seed(seed)
    return Served(params, spec, transform_of(spec))


def trained(params: Model, spec: DataSpec) -> Served:
    """As after some training: running statistics and weights that no initialisation gives."""
    served = served_of(params, spec)
    with torch.no_grad():
        served.train()(rows_of(spec, 16))
        draw = torch.Generator().manual_seed(2)
        for weight in served.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=draw)
    return served.eval()


def small_text_trunk() -> Trunk:
    """MiniLM's architecture with few numbers in it, whose weights are whatever a seed gives."""
    size = Size(tokens=TOKENS, places=64, features=64, heads=2, inner=32, layers=2)
    build = partial(MiniLM, size=size)
    return TRUNKS["text"]._replace(
        build=build,
        state=lambda path: build(spec_of("text")).state_dict(),
        front=partial(Front, size=size),
    )


def learners(served: Served) -> list[torch.nn.Parameter]:
    """What a training begins to change; a pre-trained trunk gets its weights, and is frozen."""
    if isinstance(served.net, Transfer):
        served.net.pretrain(weights_file(served.net.weights))
        served.net.open(0)
    return [weight for weight in served.parameters() if weight.requires_grad]


def write_tokenizer(folder: Path) -> None:
    """A tokenizer, which a text model's folder holds."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        ["few words"], vocab_size=300, special_tokens=["<pad>", "<empty>"], show_progress=False
    )
    tokenizer.save(str(folder / TOKENIZER))
