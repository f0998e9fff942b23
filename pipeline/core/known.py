"""Files that lie in installed packages and whose content is known: found without importing anything, checked whole."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from pipeline.core.params import UserError


def known_file(package: str, file: str, sha256: str, asked: str, install: str) -> Path:
    """`file` below the folder of a package; `asked` is the setting that needs it, `install` how to get it.

    Raises:
        UserError: the package is not installed, the file is missing, or its content is another.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"{asked} needs the package '{package}', which is not installed; run: {install}")
    path = Path(next(iter(found.submodule_search_locations))) / file
    again = f"run: {install} --force-reinstall --no-deps"
    if not path.is_file():
        raise UserError(f"{asked} needs {path}, which is missing; {again}")
    with path.open("rb") as file_:
        digest = hashlib.file_digest(file_, "sha256").hexdigest()
    if digest != sha256:
        raise UserError(
            f"{path} is not the file that {asked} is known to need, and was not opened: "
            f"expected SHA-256 {sha256}, found {digest}; {again}"
        )
    return path
