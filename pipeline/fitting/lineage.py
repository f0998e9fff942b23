"""Digests of data: what a run, a bundle and a receipt name to say which samples they mean."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from serving.inputs.spec import read_spec


def data_digest(*folders: Path) -> str:
    """SHA-256 over the ids (hashes of content), labels and specs of data set folders, in order.

    Of texts also over their tokens, as one text is other tokens to another tokenizer.
    """
    digest = hashlib.sha256()
    for folder in folders:
        spec = read_spec(folder)
        names = ["spec.json", "id.npy", f"{spec.target.name}.npy"]
        for name in [*names, f"{spec.input.name}.npy"] if spec.modality == "text" else names:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def digest(*parts: Any) -> str:
    """Twelve hexadecimal digits that name plain values, such as parameters, by their content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
