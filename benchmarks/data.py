"""Data of every modality: ingest of a million table rows and of 50,000 small images, and prepared batches a second.

Ingest is run as DVC runs it, at a quarter and at the whole of the size: its time should grow as the samples do, its
memory not at all. Batches are those that training takes from a prepared folder, against the floor: the same rows as
one tensor in memory, already padded, taken by index in a loop.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.memory import peak, write_folder
from pipeline.core.dataset import DatasetWriter, columns_of
from pipeline.fitting.batches import Batches
from serving.inputs.ragged import Ragged, filling
from serving.inputs.spec import Column, DataSpec, ImageInput, SeriesInput, TableField, TableInput, TextInput

PARAMS = "name: data\nseed: 1\ndata: {{source: {source}, path: raw, target: [{target}], task: {task}}}\n"
TABLE_ROWS, IMAGES = 1_000_000, 50_000
ROWS, SIZE, ROUNDS = 4000, 128, 5
CPU = torch.device("cpu")


def write_table(folder: Path, rows: int) -> None:
    """Eight numbers, two categories, a date and a class, in one CSV file."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    with (folder / "rows.csv").open("w") as file:
        file.write(",".join([*(f"n{at}" for at in range(8)), "colour", "town", "day", "label"]) + "\n")
        for start in range(0, rows, 50_000):
            count = min(50_000, rows - start)
            numbers = draw.normal(size=(count, 8)).round(4)
            colours, towns = draw.integers(0, 6, count), draw.integers(0, 300, count)
            days, labels = draw.integers(1, 28, count), draw.integers(0, 2, count)
            file.writelines(
                f"{','.join(map(str, row))},colour {c},town {t},2024-03-{d:02},{'no' if y else 'yes'}\n"
                for row, c, t, d, y in zip(numbers.tolist(), colours, towns, days, labels, strict=True)
            )


def ingest(write: Callable[[Path, int], None], count: int, params: str) -> tuple[float, float]:
    """Seconds of CPU, which other work on the machine does not change much, and peak MiB of the stage."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "params.yaml").write_text(params)
        write(folder / "raw", count)
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        memory = peak("ingest", folder)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime, memory


def samples() -> Iterator[tuple[DataSpec, np.ndarray | Ragged]]:
    """Random rows of each modality, as they are prepared."""
    draw = np.random.default_rng(0)

    def spec(name: str, column: Column, **more: object) -> DataSpec:
        return DataSpec.model_validate({
            "modality": name, "task": "classification", "source": "benchmark", "classes": ("a", "b"),
            "columns": columns_of(column, 0), **more,
        })  # fmt: skip

    image = Column(name="image", role="input", dtype="|u1", shape=(1, 28, 28))
    yield spec("image", image, image=ImageInput()), draw.integers(0, 256, (ROWS, 1, 28, 28), np.uint8)
    fields = tuple(TableField(name=f"n{at}", kind="number") for at in range(20))
    table = Column(name="row", role="input", dtype="<f4", shape=(20,))
    yield (
        spec("table", table, table=TableInput(fields=fields)),
        draw.normal(size=(ROWS, 20)).astype(np.float32),
    )
    series = Column(name="series", role="input", dtype="<f4", shape=(12,), ragged=True)
    lengths = draw.integers(7, 30, ROWS)
    steps = Ragged.of([draw.normal(size=(n, 12)).astype(np.float32) for n in lengths], "<f4", (12,))
    channels = tuple(f"c{at}" for at in range(12))
    yield spec("series", series, series=SeriesInput(channels=channels)), steps
    tokens = Column(name="tokens", role="input", dtype="<i4", ragged=True)
    texts = Ragged.of([draw.integers(2, 8000, n, np.int32) for n in draw.integers(20, 200, ROWS)], "<i4")
    yield spec("text", tokens, text=TextInput()), texts


def ratio(spec: DataSpec, rows: np.ndarray | Ragged) -> float:
    """Our batches a second over those of the floor, the median of rounds taken in turn."""
    labels = np.arange(ROWS, dtype=np.int64) % 2
    ids = np.array([f"{row:064}" for row in range(ROWS)], "S64")
    torch.set_num_threads(1)  # as training such small inputs does
    padded = rows.padded(filling(spec.input.dtype)) if isinstance(rows, Ragged) else rows
    inputs, targets = torch.from_numpy(padded), torch.from_numpy(labels)
    longest = torch.from_numpy(rows.lengths) if isinstance(rows, Ragged) else None

    def floor() -> None:
        order = torch.randperm(ROWS)
        for at in range(0, ROWS, SIZE):
            index = order[at : at + SIZE]
            taken = inputs[index]
            if longest is not None:
                taken = taken[:, : int(longest[index].max())]
            _ = taken.contiguous(), targets[index]

    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "train"
        with DatasetWriter(folder, spec) as writer:
            writer.append({spec.input.name: rows, "label": labels, "id": ids})
        batches = Batches(folder, SIZE, CPU, shuffle_seed=0)

        def ours() -> None:
            for _ in batches:
                pass

        pairs = []
        for _ in range(ROUNDS + 1):
            seconds = []
            for work in (ours, floor):
                began = time.perf_counter()
                for _ in range(20):
                    work()
                seconds.append(time.perf_counter() - began)
            pairs.append(seconds)
    return statistics.median(other / own for own, other in pairs[1:])


def run() -> dict[str, float]:
    """Seconds and MiB of ingest at each size, and the ratios of batches a second."""
    figures: dict[str, float] = {}
    table = PARAMS.format(source="table", target="label", task="classification")
    images = PARAMS.format(source="images", target="", task="auto")
    for name, write, count, params in (
        ("table rows", write_table, TABLE_ROWS, table), ("images", write_folder, IMAGES, images),
    ):  # fmt: skip
        for part in (count // 4, count):
            seconds, memory = ingest(write, part, params)
            figures[f"ingest of {part:,} {name}, s of CPU"] = seconds
            figures[f"ingest of {part:,} {name}, MiB"] = memory
    for spec, rows in samples():
        figures[f"{spec.modality} batches a second over an in-memory loop"] = ratio(spec, rows)
    return figures
