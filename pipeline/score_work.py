"""What a worker does with one part: decode, answer, write the results beside the output, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.params import UserError
from pipeline.score_files import FilesReader
from pipeline.score_inputs import (
    LINES,
    REQUESTS,
    TABLES,
    LinesReader,
    Part,
    Reader,
    Source,
    TableReader,
    Taken,
)
from serving.inputs.spec import DataSpec, read_spec
from serving.predictor import Predictor

BATCH, RAGGED_BATCH = 1024, 512  # samples decoded at a time; of images fewer, by their size
BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class Job:
    """What is scored, as which run, where the results of its parts go, and whether a bad sample stops it."""

    source: Source
    folder: str
    strict: bool = False
    run: str = ""  # names input, model and settings, so that what is loaded for one is not taken for another


@dataclass(frozen=True)
class Outcome:
    """What came of a part: its number, samples, how many could not be scored, and why the first could not."""

    number: int
    samples: int
    wrong: int
    reason: str


def reader(source: Source) -> Reader:
    """The reader for what the path is and what the model takes.

    Raises:
        UserError: the model does not take such files.
    """
    from pipeline.score_series import LongReader, TsReader

    spec, path = read_spec(Path(source.bundle)), Path(source.path)
    if source.listing:
        return FilesReader(source)
    name, kind = path.name.lower(), "generation" if spec.task == "generation" else spec.modality
    rows = {"table": TableReader, "text": TableReader, "series": LongReader}
    if kind in rows and name.endswith(TABLES):
        return rows[kind](source)
    if kind == "series" and name.endswith(".ts"):
        return TsReader(source)
    if name.endswith(LINES):
        return LinesReader(source)
    if name.endswith(requests_of(spec)):
        return FilesReader(source)
    takes = [
        *requests_of(spec),
        LINES,
        *(TABLES if kind in rows else ()),
        *([".ts"] if kind == "series" else []),
    ]
    raise UserError(
        f"{path} is of no kind that this model ({kind}) takes; expected a file of {', '.join(dict.fromkeys(takes))}, "
        "or a folder of files of one request each"
    )


def requests_of(spec: DataSpec) -> tuple[str, ...]:
    """The suffixes of files of one request."""
    return (".json",) if spec.task == "generation" else REQUESTS[spec.modality]


def schema_of(read: Reader) -> Any:
    """The columns of the results, as Arrow has them."""
    import pyarrow as pa

    spec = read.spec
    real = pa.float32()
    told: dict[str, Any] = {"label": pa.string(), **{f"probability_{name}": real for name in spec.classes}}
    if spec.task == "regression":
        told = {f"value_{name}": real for name in spec.targets}
    if spec.task == "anomaly":
        told = {"anomaly": pa.bool_(), "score": real, "embedding": pa.list_(real)}
    if spec.task == "generation":
        told = {"label": pa.string(), "seed": pa.int32(), "image": pa.binary()}
    names = {read.key: pa.int64() if read.key == "row" else pa.string()}
    own = {**names, **told, "error": pa.string(), "model_version": pa.string()}
    if twice := [name for name in read.source.keep if name in own]:
        raise UserError(f"--keep: the results have a column '{twice[0]}' of their own; rename yours")
    return pa.schema(list({**names, **read.kinds, **own}.items()))


def told(spec: DataSpec, rows: np.ndarray) -> dict[str, Any]:
    """The columns of some outputs (N, K), as `named` tells of each."""
    if spec.task == "generation":
        from serving.inputs.generation import picture
        from serving.inputs.image import encode_png

        return {
            "label": [spec.classes[int(row[0])] for row in rows],
            "seed": [int(row[1]) for row in rows],
            "image": [encode_png(picture(row, spec)) for row in rows],
        }
    if spec.task == "anomaly":
        return {"anomaly": rows[:, 0] > 1, "score": rows[:, 0], "embedding": list(rows[:, 1:])}
    if spec.task == "regression":
        return {f"value_{name}": rows[:, at] for at, name in enumerate(spec.targets)}
    labels = [spec.classes[at] for at in rows.argmax(1)] if len(rows) else []
    return {"label": labels, **{f"probability_{name}": rows[:, at] for at, name in enumerate(spec.classes)}}


@lru_cache(2)
def _loaded(job: Job) -> tuple[Reader, Predictor, Any]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    read = reader(job.source)
    return read, Predictor(Path(job.source.bundle)), schema_of(read)


def batch_size(spec: DataSpec) -> int:
    """Samples that are decoded at a time: bounded in bytes."""
    if spec.input.ragged:
        return RAGGED_BATCH
    bytes_each = int(np.prod(spec.input_shape)) * np.dtype(spec.input.dtype).itemsize
    return max(1, min(BATCH, BATCH_BYTES // max(bytes_each, 1)))


def place_of(folder: Path, number: int) -> Path:
    """Where the results of a part lie."""
    return folder / f"{number:08}.parquet"


def score_part(job: Job, part: Part) -> Outcome:
    """Score a part and write its results.

    Raises:
        UserError: a sample cannot be scored, and the job is strict.
    """
    from pyarrow import parquet

    read, predictor, schema = _loaded(job)
    place = place_of(Path(job.folder), part.number)
    fresh = place.with_suffix(f".{os.getpid()}.new")
    samples, wrong, reason = 0, 0, ""
    try:
        with parquet.ParquetWriter(fresh, schema) as writer:
            for taken in read.read(part, batch_size(read.spec)):
                samples, wrong = samples + len(taken.keys), wrong + len(taken.wrong)
                reason = reason or next((taken.wrong[at] for at in sorted(taken.wrong)), "")
                if wrong and job.strict:
                    raise UserError(f"{reason} (without --strict the others are scored)")
                writer.write_batch(_results(read, predictor, schema, taken))
            writer.add_key_value_metadata(
                {"samples": str(samples), "wrong": str(wrong), "reason": reason.encode("utf-8", "replace")}
            )
        if samples != part.samples:
            raise UserError(f"{read.path} changed while it was scored; run the command again")
        with fresh.open("rb") as written:
            os.fsync(written.fileno())
        fresh.replace(place)
    finally:
        fresh.unlink(missing_ok=True)
    return Outcome(part.number, samples, wrong, reason)


def _results(read: Reader, predictor: Predictor, schema: Any, taken: Taken) -> Any:
    """Results in the order of the samples; nothing but the reason where one could not be scored."""
    import pyarrow as pa

    count = len(taken.keys)
    good = np.array([at for at in range(count) if at not in taken.wrong], np.int64)
    outputs = predictor.outputs(read.gathered(taken)) if len(good) else np.zeros((0, len(read.spec.outputs)))
    answers = told(read.spec, outputs) if len(good) else {}
    places = np.full(count, -1)
    places[good] = np.arange(len(good))
    take = pa.array(places, mask=places < 0)
    errors = [_clean(taken.wrong[at]) if at in taken.wrong else None for at in range(count)]
    columns: dict[str, Any] = {read.key: [_clean(key) for key in taken.keys], **taken.kept, "error": errors}
    columns["model_version"] = [predictor.version] * count
    arrays = []
    for field in schema:
        if field.name in columns:
            found = columns[field.name]
            arrays.append(found if isinstance(found, pa.Array) else pa.array(found, field.type))
        else:
            arrays.append(pa.array(answers.get(field.name, []), field.type).take(take))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _clean(value: Any) -> Any:
    """Text that UTF-8 can hold."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def finished(folder: Path, parts: list[Part]) -> Iterator[Outcome]:
    """The outcomes of the parts that are done."""
    from pyarrow import ArrowException, parquet

    for part in parts:
        try:
            about = parquet.read_metadata(place_of(folder, part.number)).metadata
        except (OSError, ArrowException):
            continue
        yield Outcome(
            part.number,
            int(about[b"samples"]),
            int(about[b"wrong"]),
            about[b"reason"].decode("utf-8", "replace"),
        )
