"""Promoted archives on this machine, each beside its receipt and bundle: what may be served, also without MLflow."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipeline import mlflow_store, registry
from pipeline.core.params import UserError
from pipeline.core.stage import STATE, replacing
from pipeline.history import Receipt
from pipeline.registry import Champion
from pipeline.versions import promoted
from serving.inputs.spec import write_json
from serving.settings import ServerError
from serving.state import RECEIPT, check_archive

STORE = STATE / "store"


@dataclass(frozen=True)
class Blessed:
    """A promoted version whose archive lies here and is what its receipt says."""

    name: str
    version: str
    archive: Path
    receipt: Receipt


def stored(name: str, version: str) -> Blessed | None:
    """A version from the store; None where it does not lie there whole and unchanged."""
    place = _place(name, version)
    archive = place / f"{name}.mar"
    try:
        receipt = Receipt.model_validate_json((place / RECEIPT).read_bytes())
        check_archive(name, version, archive)
    except (OSError, ValidationError, ServerError):
        return None
    return Blessed(name, version, archive.resolve(), receipt) if (place / "bundle").is_dir() else None


def fetch(name: str, wanted: str | None = None) -> Blessed:
    """A promoted version, which is fetched where it does not lie here: the champion unless another is named.

    Args:
        name: the registered model.
        wanted: a number of the registry, an alias, or the digest of the content or its beginning.

    Raises:
        UserError: nothing is promoted, the version was not, or the archive is not the one that was certified.
    """
    found = promoted(name, wanted) if wanted else registry.champion(name)
    if found is None:
        raise UserError(
            f"no version of '{name}' is promoted in the MLflow store {mlflow_store.place()}; 'make repro' makes and "
            "judges one, and 'make report' says why a model was not promoted (where the store was lost or changed: "
            "'dvc repro -f -s train' first, which records the model anew)"
        )
    kept = stored(name, found.model_version)
    if kept is None:
        _download(found)
        kept = stored(name, found.model_version)
    if kept is None:
        raise UserError(
            f"the archive of {name} version {found.number} is not that of model version {found.model_version}, so it "
            "is not served"
        )
    return kept


def again(name: str, version: str) -> Blessed:
    """A version that was served before, fetched anew where the store no longer holds it unchanged.

    Raises:
        UserError: it is nowhere to be had.
    """
    return stored(name, version) or fetch(name, version)


def _download(version: Champion) -> None:
    with replacing(_place(version.name, version.model_version)) as fresh:
        registry.download_archive(version, fresh)
        found = registry.download_bundle(version, fresh / "fetched")
        found.rename(fresh / "bundle")
        shutil.rmtree(fresh / "fetched")
        receipt = Receipt(
            registry_version=version.number, run_id=version.run_id, archive_sha256=version.archive_sha256
        )
        write_json(fresh / RECEIPT, receipt)


def _place(name: str, version: str) -> Path:
    return STORE / f"{name}-{version}"
