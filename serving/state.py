"""What a server must run: `models.json` in its state folder, which survives its end and says how it comes back."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from serving.archive import ArchiveError, read_manifest
from serving.inputs.spec import read_json
from serving.settings import ServerError

MODELS = "models.json"
RECEIPT = "receipt.json"  # beside an archive in the store: what it was certified as


class Served(BaseModel, extra="forbid", frozen=True):
    """One model: its versions that run side by side, and which of them answers where none is named."""

    default: str = Field(description="The version that answers at `/predictions/NAME`.")
    versions: dict[str, Path] = Field(description="Every version that runs, with its archive.")

    @model_validator(mode="after")
    def _default_runs(self) -> Served:
        if self.default not in self.versions:
            raise ValueError(f"the default {self.default!r} is none of the versions {sorted(self.versions)}")
        return self


class Models(BaseModel, extra="forbid", frozen=True):
    """Every model of a server by its name."""

    models: dict[str, Served] = {}

    def every(self) -> list[tuple[str, str, Path]]:
        """Every version of every model with its archive, a model's default first."""
        return [
            (name, version, path)
            for name, served in self.models.items()
            for version, path in sorted(served.versions.items(), key=lambda each: each[0] != served.default)
        ]

    def serving(self, name: str, version: str, archive: Path) -> Models:
        """The same, with `version` of `name` running and its default."""
        before = self.models[name].versions if name in self.models else {}
        served = Served(default=version, versions={**before, version: archive})
        return Models(models={**self.models, name: served})

    def beside(self, name: str, version: str, archive: Path) -> Models:
        """The same, with `version` of `name` running beside its default."""
        served = self.models[name]
        served = Served(default=served.default, versions={**served.versions, version: archive})
        return Models(models={**self.models, name: served})

    def without(self, name: str, version: str) -> Models:
        """The same, with a version that is no default gone."""
        served = self.models[name]
        left = {each: path for each, path in served.versions.items() if each != version}
        return Models(models={**self.models, name: Served(default=served.default, versions=left)})


def of_archive(archive: Path) -> Models:
    """What a server runs that serves this archive alone.

    Raises:
        ServerError: it is no archive.
    """
    try:
        name, version = read_manifest(archive)
    except ArchiveError as error:
        raise ServerError(str(error)) from None
    return Models().serving(name, version, archive.resolve())


def read_models(folder: Path) -> Models:
    """What the server of a state folder must run; nothing where that was never said.

    Raises:
        ServerError: the file cannot be read.
    """
    try:
        return Models.model_validate_json((folder / MODELS).read_bytes())
    except FileNotFoundError:
        return Models()
    except (OSError, ValidationError) as error:
        raise ServerError(
            f"{folder / MODELS} cannot be read: {error}; remove it, and 'fairlead serve up' starts the champion"
        ) from None


def write_models(folder: Path, models: Models) -> None:
    """Say what the server must run, whole or not at all, and so that it survives a crash of the machine.

    Raises:
        ServerError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / MODELS, models)


def replace_file(path: Path, content: BaseModel) -> None:
    """Write a file whole or not at all; it is on the disk when this returns.

    Raises:
        ServerError: it cannot be written; what was there stays.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("w") as file:
            file.write(content.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise ServerError(f"{path} cannot be written: {error.strerror}") from None


def check_models(models: Models) -> None:
    """Make sure that there is something to run, and that every archive is what its receipt says.

    Raises:
        ServerError: there is none, or one is not.
    """
    if not models.models:
        raise ServerError("there is no model to serve")
    for name, version, archive in models.every():
        check_archive(name, version, archive)


def check_archive(name: str, version: str, archive: Path) -> None:
    """Make sure that an archive holds this version, and is what its receipt says where one lies beside it.

    Raises:
        ServerError: it does not, or is not.
    """
    if archive.suffix != ".mar":
        raise ServerError(f"an archive's name must end in '.mar'; found {archive}")
    try:
        found = read_manifest(archive)
    except ArchiveError as error:
        raise ServerError(str(error)) from None
    if found != (name, version):
        raise ServerError(f"{archive} holds {' version '.join(found)}; expected {name} version {version}")
    receipt = archive.parent / RECEIPT
    if receipt.exists():
        certified = str(read_json(receipt).get("archive_sha256", ""))
        if sha256(archive) != certified:
            raise ServerError(
                f"{archive} is not what was certified (its receipt says SHA-256 {certified[:12]}...), so it is not "
                f"served; remove {archive.parent}, and it is fetched anew"
            )


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def golden_requests(archive: Path) -> list[tuple[bytes, str, dict[str, Any]]]:
    """The golden requests of the bundle beside an archive in the store: body, content type, expected answer."""
    folder = archive.parent / "bundle" / "golden"
    try:
        known = read_json(folder / "golden.json")["requests"]
        return [((folder / each["file"]).read_bytes(), each["content_type"], each) for each in known]
    except (OSError, KeyError, ValueError) as error:
        raise ServerError(f"no golden requests beside {archive} ({error}): remove {archive.parent}") from None
