"""Digests of data: what a run, a bundle and a receipt name to say which samples they mean."""

from __future__ import annotations

import hashlib
from pathlib import Path


def data_digest(*folders: Path) -> str:
    """SHA-256 over the ids (hashes of content), labels and specs of data set folders, in order."""
    digest = hashlib.sha256()
    for folder in folders:
        for name in ("spec.json", "id.npy", "label.npy"):
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
