"""Batch scoring without a server: parts that workers score and a kill leaves whole, put together in order at the end.

Beside OUT lie, while it is made, `OUT.parts/` with the plan, the bundle and the finished parts, and afterwards
`OUT.json`, the receipt, which says of which input, model and settings OUT is the result.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline import engine
from pipeline.core.params import UserError
from pipeline.score_inputs import Part, Source, listed
from pipeline.score_work import Job, Outcome, finished, place_of, reader, requests_of, schema_of, score_part
from pipeline.sources.tablefiles import OPENERS
from serving.inputs.spec import read_json, read_spec, write_json

FORMAT = 1  # of plans and parts; others are not gone on with
SUFFIXES = (".parquet", ".csv")
UNUSED = ("golden", "model.pt2", "weights.safetensors")  # of a bundle, to answer
COMPRESSED = tuple(suffix for suffix in OPENERS if suffix != ".csv")


@dataclass(frozen=True)
class Asked:
    """What to score with what, and how."""

    path: Path
    out: Path
    bundle: Path
    columns: Mapping[str, Any]  # of `Source`
    strict: bool = False
    force: bool = False
    workers: int = 1
    ray: str | None = None  # the address of a cluster, empty for one of this machine

    @property
    def parts(self) -> Path:
        """Where parts are kept."""
        return self.out.with_name(f"{self.out.name}.parts")

    @property
    def receipt(self) -> Path:
        """What OUT is the result of."""
        return self.out.with_name(f"{self.out.name}.json")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def score(asked: Asked, report: Callable[[str], None]) -> dict[str, Any]:
    """Score, going on from what is finished; give the receipt.

    Raises:
        UserError: the input or the output cannot be used, or a sample cannot and that is to stop it.
    """
    check(asked)
    asked.parts.mkdir(parents=True, exist_ok=True)
    with locked(asked), tidied(asked):
        identity = identify(asked, report)
        if (done := made(asked, identity)) and not asked.force:
            shutil.rmtree(asked.parts)
            report(f"{asked.out} is this very result already; nothing to do")
            return done
        parts, job = plan(asked, identity, report)
        outcomes = run(asked, job, parts, report)
        if identify(asked, lambda _: None) != identity:
            raise UserError(f"{asked.path} changed while it was scored; run the command again")
        total = {
            "samples": sum(each.samples for each in outcomes), "wrong": sum(each.wrong for each in outcomes),
            "first_reason": next((each.reason for each in outcomes if each.reason), ""),
        }  # fmt: skip
        fresh = asked.out.with_name(f".{asked.out.name}.new")
        merge([place_of(asked.parts, part.number) for part in parts], fresh, asked.out.suffix.lower())
        fresh.replace(asked.out)
        receipt = {
            **identity, **total, "out": stamp(asked.out),
            "scored": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        write_json(asked.receipt, receipt)
        shutil.rmtree(asked.parts)
    return receipt


def check(asked: Asked) -> None:
    """Refuse what cannot go well, and an OUT that is not ours to replace."""
    if not asked.path.exists():
        raise UserError(f"{asked.path} does not exist; expected a file or a folder")
    if asked.out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out: {asked.out} must end in {' or '.join(SUFFIXES)}")
    if asked.out.resolve() == asked.path.resolve():
        raise UserError(f"--out: {asked.out} is the input itself")
    if asked.out.is_dir():
        raise UserError(f"--out: {asked.out} is a folder")
    if asked.path.is_dir() and asked.out.resolve().is_relative_to(asked.path.resolve()):
        raise UserError(
            f"--out: {asked.out} lies inside the input, which would change by it; put it elsewhere"
        )
    if not asked.out.parent.is_dir():
        raise UserError(f"--out: the folder {asked.out.parent} does not exist")
    if asked.out.exists() and not asked.force:
        try:
            ours = read_json(asked.receipt)["out"] == stamp(asked.out)
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if (
            not ours and not (asked.parts / "plan.json").exists()
        ):  # a run that was killed may have replaced it
            raise UserError(
                f"--out: {asked.out} exists and is not what this command wrote; --force replaces it"
            )


@contextmanager
def locked(asked: Asked) -> Iterator[None]:
    """One run at a time; a killed one holds no lock."""
    with (asked.parts / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is scoring into {asked.out} now") from None
        yield


@contextmanager
def tidied(asked: Asked) -> Iterator[None]:
    """What fails before there is a plan leaves nothing."""
    try:
        yield
    except BaseException:
        if not (asked.parts / "plan.json").exists():
            shutil.rmtree(asked.parts, ignore_errors=True)
        raise


def stamp(path: Path) -> dict[str, Any]:
    """Size and time of a file, by which a change is noticed."""
    found = path.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def identify(asked: Asked, report: Callable[[str], None]) -> dict[str, Any]:
    """What the result depends on: the input as it is, the model, the settings."""
    about: dict[str, Any] = {"path": str(asked.path.resolve())}
    if asked.path.is_dir():
        listing = asked.parts / ".files.new"
        used, other, digest = listed(asked.path, requests_of(read_spec(asked.bundle)), listing)
        if not used:
            kinds = ", ".join(requests_of(read_spec(asked.bundle)))
            raise UserError(
                f"{asked.path} holds no file that this model takes: {kinds} (a table is given as a file)"
            )
        if other:
            report(f"{other} files are of no kind that this model takes, and are left out")
        about |= {"files": used, "digest": digest}
    else:
        about |= stamp(asked.path)
    bundle = read_json(asked.bundle / "bundle.json")
    return {
        "format": FORMAT, "input": about, "model": str(bundle.get("name", "")),
        "model_version": str(bundle["version"]), "run_id": str(bundle.get("run_id", "")),
        "settings": json.loads(json.dumps({**asked.columns, "strict": asked.strict})),
    }  # fmt: skip


def made(asked: Asked, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The receipt of OUT, where it is whole and of the same identity."""
    try:
        receipt = read_json(asked.receipt)
        same = receipt["out"] == stamp(asked.out) and identity.items() <= receipt.items()
    except (OSError, ValueError, KeyError):
        return None
    return receipt if same else None


def plan(asked: Asked, identity: dict[str, Any], report: Callable[[str], None]) -> tuple[list[Part], Job]:
    """The parts: those of an earlier run where nothing changed since, else cut anew."""
    folder = asked.parts
    source = Source(str(asked.path), str((folder / "bundle").resolve()), **asked.columns)
    if asked.path.is_dir():
        source = replace(source, listing=str((folder / "files").resolve()))
    elif asked.path.name.lower().endswith(COMPRESSED):
        source = replace(source, path=str((folder / asked.path.with_suffix("").name).resolve()))
    named = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    absolute = replace(source, path=str(Path(source.path).resolve()))
    job = Job(absolute, str(folder.resolve()), asked.strict, named)
    note = folder / "plan.json"
    try:
        earlier = read_json(note)
    except (OSError, ValueError):
        earlier = {}
    if earlier.get("identity") == identity:
        return [Part(a, b, c, (d, e), f) for a, b, c, d, e, f in earlier["parts"]], job
    if earlier:
        changed = [key for key in identity if earlier.get("identity", {}).get(key) != identity[key]]
        report(f"the parts in {folder} are of another {' and '.join(changed) or 'plan'}: starting anew")
    for path in folder.iterdir():
        if path.name not in ("lock", ".files.new"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(asked.bundle, folder / "bundle", ignore=shutil.ignore_patterns(*UNUSED))
    if source.listing:
        (folder / ".files.new").replace(source.listing)
    if Path(source.path).name != asked.path.name:
        unpack(asked.path, Path(source.path))
    read = reader(job.source)
    schema = schema_of(read)
    if asked.out.suffix.lower() == ".csv":
        check_csv(schema)
    parts = list(read.parts())
    if not parts:
        raise UserError(f"{asked.path} holds nothing to score")
    fresh = folder / ".plan.new"
    plain = [[p.number, p.first, p.samples, *p.mark, p.rows] for p in parts]
    fresh.write_text(json.dumps({"identity": identity, "parts": plain}))
    fresh.replace(note)
    return parts, job


def unpack(path: Path, plain: Path) -> None:
    """Unpack a compressed CSV file, as only a plain one can be read from the middle."""
    from pipeline.sources.tablefiles import BROKEN

    suffix = next(suffix for suffix in COMPRESSED if path.name.lower().endswith(suffix))
    try:
        with OPENERS[suffix](path, "rb") as packed, plain.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except BROKEN as error:
        raise UserError(f"{path} cannot be unpacked: {error}") from None


def run(asked: Asked, job: Job, parts: list[Part], report: Callable[[str], None]) -> list[Outcome]:
    """Score the parts that are not finished, on processes or on Ray; the outcomes of all, in order."""
    known = {each.number: each for each in finished(asked.parts, parts)}
    total = sum(part.samples for part in parts)
    done = sum(each.samples for each in known.values())
    if known:
        report(f"going on: {done:,} of {total:,} are scored already")
    left = [part for part in parts if part.number not in known]
    work = partial(score_part, job)
    workers = max(1, min(asked.workers, len(left)))
    stream = (
        engine.on_processes(work, left, workers)
        if asked.ray is None
        else engine.on_ray(work, left, asked.ray)
    )
    with tqdm(total=total, initial=done, desc="score", unit="", unit_scale=True) as bar:
        for outcome in stream:
            known[outcome.number] = outcome
            bar.update(outcome.samples)
            if wrong := sum(each.wrong for each in known.values()):
                bar.set_postfix_str(f"{wrong:,} could not be scored")
    return [known[part.number] for part in parts]


def check_csv(schema: Any) -> None:
    """Refuse kept columns that CSV cannot hold."""
    import pyarrow as pa

    for field in schema:
        if pa.types.is_nested(field.type) and field.name != "embedding":
            raise UserError(f"--keep: '{field.name}' holds {field.type}, which CSV cannot; write .parquet")


def merge(places: list[Path], out: Path, suffix: str) -> None:
    """Put the parts together, one in memory at a time."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        schema = parquet.read_schema(places[0]).remove_metadata()
        if suffix == ".parquet":
            with parquet.ParquetWriter(out, schema) as writer:
                for place in places:
                    writer.write_table(parquet.read_table(place, use_threads=False).replace_schema_metadata())
        else:
            plain = pa.schema([pa.field(field.name, _csv_type(field.type)) for field in schema])
            options = csv.WriteOptions(quoting_style="needed")
            with csv.CSVWriter(out, plain, write_options=options) as lines:
                for place in places:
                    lines.write_table(_as_csv(parquet.read_table(place, use_threads=False), plain))
        with out.open("rb") as written:
            os.fsync(written.fileno())
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def _csv_type(kind: Any) -> Any:
    import pyarrow as pa

    return pa.string() if pa.types.is_list(kind) or pa.types.is_binary(kind) else kind


def _as_csv(table: Any, schema: Any) -> Any:
    """Lists as JSON, bytes as base64."""
    import pyarrow as pa

    def text(cell: Any) -> str | None:
        return (
            None
            if cell is None
            else base64.b64encode(cell).decode()
            if isinstance(cell, bytes)
            else json.dumps(cell)
        )

    columns = [
        table[field.name] if table[field.name].type == field.type
        else pa.array([text(cell) for cell in table[field.name].to_pylist()], pa.string())
        for field in schema
    ]  # fmt: skip
    return pa.table(columns, schema=schema)
