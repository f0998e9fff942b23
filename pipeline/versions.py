"""Registered versions by what people call them: number, digest or a part of it, or alias; and their bundles."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from pipeline import mlflow_store, registry
from pipeline.core.params import UserError
from pipeline.core.stage import STATE, replacing

BUNDLES = STATE / "bundles"
SHORTEST = 4  # characters of a digest that may stand for it


def registered(name: str) -> list[Any]:
    """All versions of a model as MLflow has them, the latest first; their tags hold the verdict.

    Raises:
        UserError: the registry does not answer.
    """
    client = mlflow_store.client()
    try:
        found = list(client.search_model_versions(f"name='{name}'", order_by=["version_number DESC"]))
        aliases = client.get_registered_model(name).aliases if found else {}
    except mlflow_store.store_error() as error:
        raise UserError(f"the MLflow registry {mlflow_store.place()} cannot be read: {error}") from None
    for version in found:
        version._aliases = [alias for alias, number in aliases.items() if str(number) == str(version.version)]
    return sorted(found, key=lambda version: -int(version.version))


def find(name: str, word: str) -> list[Any]:
    """The registered versions that a word means, which are of one model version, the latest first.

    Args:
        name: of the registered model.
        word: a number, an alias, or a digest or its beginning.

    Raises:
        UserError: none, or the beginning is that of several.
    """
    known = registered(name)
    if not known:
        raise UserError(
            f"no version of '{name}' is registered in {mlflow_store.place()}; 'make repro' makes one"
        )
    exact = [each for each in known if word == str(each.version) or word in each.aliases]
    if exact:
        return exact
    same = [each for each in known if each.tags.get("model_version", "").startswith(word)]
    digests = sorted({each.tags["model_version"] for each in same})
    if len(word) < SHORTEST or not same:
        there = ", ".join(f"{each.version} ({each.tags.get('model_version', '?')})" for each in known[:10])
        raise UserError(
            f"'{name}' has no version '{word}'; it has {there}{', ...' if len(known) > 10 else ''}"
        )
    if len(digests) > 1:
        raise UserError(
            f"'{word}' begins several versions of '{name}': {', '.join(digests)}; give more of it"
        )
    return same


def promoted(name: str, word: str) -> registry.Champion:
    """The promoted one of the versions that a word means, as `find`.

    Raises:
        UserError: there is none, or it was never promoted.
    """
    found = find(name, word)
    if blessed := [each for each in found if each.tags.get("verdict") == "promoted"]:
        return registry.entry(blessed[0])
    crowned = registry.champion(name)
    if crowned and crowned.number in {str(each.version) for each in found}:
        return crowned  # somebody moved the alias, and knows why
    tags = found[0].tags
    raise UserError(
        f"version {word} of '{name}' was not promoted ({tags.get('verdict', 'no verdict')}: "
        f"{tags.get('reason', 'no reason')}), so it is not served"
    )


def run_of(version: Any) -> Any:
    """The MLflow run of a registered version.

    Raises:
        UserError: it is gone.
    """
    try:
        return mlflow_store.client().get_run(version.run_id)
    except mlflow_store.store_error() as error:
        raise UserError(
            f"the run of version {version.version} of '{version.name}' is gone: {error}"
        ) from None


def bundle_of(version: Any) -> Path:
    """The bundle of a registered version, out of its certified archive, fetched once.

    Raises:
        UserError: the archive is gone, or is not the one that was certified.
    """
    tags = version.tags
    if missing := [key for key in ("archive_sha256", "model_version") if not tags.get(key)]:
        raise UserError(
            f"version {version.version} of '{version.name}' has no tag '{missing[0]}': it was not registered by promote"
        )
    place = BUNDLES / f"{version.name}-{tags['archive_sha256'][:12]}"
    if not place.exists():
        with replacing(place) as fresh:
            archive = registry.download_archive(registry.entry(version), fresh)
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(fresh, [name for name in packed.namelist() if name.startswith("bundle/")])
            archive.unlink()
    return place / "bundle"
