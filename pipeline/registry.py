"""The model registry: versions with their receipts, and the alias `champion`. History is never rewritten."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import mlflow_store
from pipeline.core.params import UserError
from pipeline.tracking import Run

ALIAS = "champion"


@dataclass(frozen=True)
class Champion:
    """The version that serves."""

    name: str
    number: str
    model_version: str
    run_id: str
    source: str
    archive_sha256: str


def entry(version: Any) -> Champion:
    """A version as MLflow has it, as one that may serve."""
    tags = version.tags
    return Champion(
        version.name, str(version.version), tags.get("model_version", ""), str(version.run_id), str(version.source),
        tags.get("archive_sha256", ""),
    )  # fmt: skip


def champion(name: str) -> Champion | None:
    """The registered version with the alias `champion`; None where there is none yet."""
    try:
        found = mlflow_store.client().get_model_version_by_alias(name, ALIAS)
    except mlflow_store.store_error() as error:
        if mlflow_store.missing(error):
            return None
        raise UserError(f"the MLflow registry {mlflow_store.place()} cannot be read: {error}") from None
    return entry(found)


def tag(name: str, number: str, tags: Mapping[str, str | None]) -> None:
    """Set tags of a version; None takes one away.

    Raises:
        UserError: the registry does not answer, or does not know the version.
    """
    client = mlflow_store.client()
    try:
        for key, value in tags.items():
            if value is not None:
                client.set_model_version_tag(name, number, key, value)
            elif key in client.get_model_version(name, number).tags:
                client.delete_model_version_tag(name, number, key)
    except mlflow_store.store_error() as error:
        raise UserError(f"the MLflow registry {mlflow_store.place()} cannot be written: {error}") from None


def download_bundle(version: Champion, folder: Path) -> Path:
    """Fetch the bundle of a version into `folder`."""
    return mlflow_store.download(f"models:/{version.name}/{version.number}/artifacts/bundle", folder)


def archive_place(sha256: str) -> str:
    """Where a run keeps an archive: by its digest, so that exporting the model anew overwrites no older one."""
    return f"archive/{sha256[:12]}"


def download_archive(version: Champion, folder: Path) -> Path:
    """Fetch the `.mar` of a version into `folder`, checked against the digest in its receipt.

    Raises:
        UserError: what the store holds is not what was certified.
    """
    place = archive_place(version.archive_sha256)
    path = mlflow_store.download(f"runs:/{version.run_id}/{place}/{version.name}.mar", folder)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != version.archive_sha256:
        path.unlink()
        raise UserError(
            f"the archive of {version.name} version {version.number} has SHA-256 {found[:12]}..., its receipt says "
            f"{version.archive_sha256[:12]}...: it is not what was certified, so it is not served"
        )
    return path


def register(name: str, source: str, run: Run, tags: Mapping[str, str]) -> str:
    """Add a version, with its verdict as tags; return its number."""
    client = mlflow_store.client()
    try:
        client.create_registered_model(name)
    except mlflow_store.store_error() as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise UserError(
                f"the MLflow registry {mlflow_store.place()} cannot be written: {error}"
            ) from None
    model_id = source.removeprefix("models:/")  # a server, unlike a local database, insists on it
    made = client.create_model_version(
        name, source, run.id, tags=dict(tags), description=tags["reason"], model_id=model_id
    )
    return str(made.version)


def crown(name: str, number: str) -> None:
    """Let the alias `champion` name this version."""
    mlflow_store.client().set_registered_model_alias(name, ALIAS, number)
