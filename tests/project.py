"""A project's folder in tests: change its parameters, read what its stages wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


class Project:
    """A folder with `params.yaml`, and `data/` once stages ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, changes: Mapping[str, Any]) -> None:
        """Change keys of sections in params.yaml; what is no section is put in place of what was there."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section, values in changes.items():
            params[section] = params[section] | values if isinstance(values, dict) else values
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def json(self, path: str) -> Any:
        """Read a JSON file below the folder."""
        return json.loads((self.folder / path).read_text())

    def digest(self, path: str) -> str:
        """One digest over a file, or over the names and contents of a folder's files."""
        at = self.folder / path
        files = sorted(file for file in at.rglob("*") if file.is_file()) if at.is_dir() else [at]
        parts = [f"{file.relative_to(at)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
