"""What is to be scored, and its plan: the parts, kept beside the output with what they depend on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.core.params import UserError
from pipeline.score_files import listed
from pipeline.score_inputs import Part, Source
from pipeline.score_merge import check_csv
from pipeline.score_work import Job, reader, requests_of, schema_of
from pipeline.sources.tablefiles import BROKEN, OPENERS
from serving.inputs.spec import read_json, read_spec

FORMAT = 1  # of plans and parts; others are not gone on with
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
    suffix = next(suffix for suffix in COMPRESSED if path.name.lower().endswith(suffix))
    try:
        with OPENERS[suffix](path, "rb") as packed, plain.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except BROKEN as error:
        raise UserError(f"{path} cannot be unpacked: {error}") from None
