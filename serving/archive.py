"""Packs a bundle as a TorchServe archive (`.mar`), byte for byte the same for the same bundle.

A `.mar` is a zip with a manifest. We write it ourselves: `torch-model-archiver` is no longer maintained,
stamps the time of day into every archive, and needs the handler and each extra file by name.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from serving.inputs.spec import read_json

MANIFEST = "MAR-INF/MANIFEST.json"
CODE = Path(__file__).parent
# What the handler imports, none of MLflow.
PACKAGE = (
    "__init__.py",
    "predictor.py",
    *(f"{part}/{path.name}" for part in ("inputs", "worker") for path in sorted((CODE / part).glob("*.py"))),
)
UNUSED = ("golden", "model.pt2", "weights.safetensors")  # the handler answers from `model.onnx` alone
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a model or a version: a part of addresses and of paths
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


class ArchiveError(ValueError):
    """A bundle or an archive that cannot be used; its message says what is missing, and where."""


def build_archive(bundle: Path, archive: Path, name: str) -> None:
    """Write `archive` from `bundle`: the manifest, the handler, its share of `serving`, and `bundle/`.

    Left out is what the server never opens (`UNUSED`): the golden requests, the exported program and the
    loose weights, all of which would only be unpacked at every start. The archive appears whole or not
    at all, and equal bundles give equal bytes: entries are sorted, times and permissions fixed.

    Args:
        bundle: folder with `bundle.json` (whose `version` becomes the model's), `spec.json`, `model.onnx`.
        archive: the `.mar` to write; its folder exists.
        name: the model's name, the last part of the server's address.

    Raises:
        ArchiveError: the bundle lacks a file or a version or holds a link, or the name cannot stand in an address.
    """
    if not NAME.fullmatch(name):
        raise ArchiveError(f"the model's name may hold letters, digits, '.', '_' and '-'; found {name!r}")
    if links := [path for path in bundle.rglob("*") if path.is_symlink()]:
        raise ArchiveError(f"a bundle holds files, no links to others: remove {links[0]}")
    for needed in ("bundle.json", "spec.json", "model.onnx"):
        if not (bundle / needed).is_file():
            raise ArchiveError(f"the bundle {bundle} has no '{needed}'; run the export stage again")
    version = str(read_json(bundle / "bundle.json").get("version", ""))
    if not version:
        raise ArchiveError(f"{bundle / 'bundle.json'} has no 'version'; run the export stage again")
    entries: dict[str, bytes | Path] = {MANIFEST: json.dumps(_manifest(name, version), indent=2).encode()}
    entries["handler.py"] = (CODE / "handler.py").read_bytes()
    entries |= {f"serving/{file}": (CODE / file).read_bytes() for file in PACKAGE}
    entries |= {f"bundle/{path.relative_to(bundle).as_posix()}": path for path in _served(bundle)}
    fresh = archive.with_name(f".{archive.name}.new")
    with zipfile.ZipFile(fresh, "w") as packed:
        for inside in sorted(entries):
            _add(packed, inside, entries[inside])
    fresh.replace(archive)


def read_manifest(archive: Path) -> tuple[str, str]:
    """Name and version of the model in an archive.

    Raises:
        ArchiveError: it is missing, is no zip, or has no usable manifest.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            model = json.loads(packed.read(MANIFEST))["model"]
            name, version = str(model["modelName"]), str(model["modelVersion"])
    except FileNotFoundError:
        raise ArchiveError(f"there is no archive {archive}; run 'dvc repro' first") from None
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{archive} is not a TorchServe archive: {error}") from None
    for found in (name, version):
        if not NAME.fullmatch(found):  # it becomes a part of paths
            raise ArchiveError(
                f"{archive} names its model {name!r}, version {version!r}; only letters, digits, '.', '_' and '-' "
                "may stand there"
            )
    return name, version


def _manifest(name: str, version: str) -> dict[str, Any]:
    # `runtime: python` makes TorchServe start the interpreter that it was given, not one from the PATH.
    return {
        "createdOn": "01/01/1980 00:00:00",
        "runtime": "python",
        "model": {"modelName": name, "handler": "handler.py", "modelVersion": version},
        "archiverVersion": "0.12.0",
    }


def _served(bundle: Path) -> list[Path]:
    """The bundle's files that the server needs; a network's external data lies beside `model.onnx`."""
    return [
        path
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.relative_to(bundle).parts[0] not in UNUSED
    ]


def _add(packed: zipfile.ZipFile, inside: str, content: bytes | Path) -> None:
    entry = zipfile.ZipInfo(inside, EPOCH)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # Unix, whichever system builds it
    # Stored, not deflated: weights hardly shrink, and zlib's output differs from version to version.
    packed.writestr(entry, content if isinstance(content, bytes) else content.read_bytes())
