"""The recipes: complete parameter files, one a task, and putting one in the place of `params.yaml`."""

from __future__ import annotations

import difflib
import shutil
import subprocess
from pathlib import Path

from pipeline.core.params import PARAMS, UserError

FOLDER = Path("recipes")
ABOUT = 2  # the line that says what a recipe is for, after the two that all share


def listed() -> dict[str, str]:
    """Every recipe's name, with what it is for.

    Raises:
        UserError: there is no folder of recipes here.
    """
    found = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.yaml")}
    if not found:
        raise UserError(f"there is no {FOLDER}/ here; run from the project's folder")
    return {name: text.splitlines()[ABOUT].removeprefix("# ") for name, text in sorted(found.items())}


def use(name: str, force: bool = False) -> str:
    """Put a recipe in the place of `params.yaml`, and say what was done.

    Raises:
        UserError: there is no such recipe, or `params.yaml` holds changes that are nowhere else.
    """
    if name not in (known := listed()):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise UserError(f"there is no recipe '{name}'{hint} There are: {', '.join(known)}")
    recipe = FOLDER / f"{name}.yaml"
    if PARAMS.exists() and not force and not _kept():
        raise UserError(
            f"{PARAMS} holds changes that are neither committed nor a recipe's: commit them, or copy the file, or "
            "give --force to lose them"
        )
    shutil.copyfile(recipe, PARAMS)
    return f"{PARAMS} is now {recipe}; 'make repro' runs it"


def _kept() -> bool:
    """True where what `params.yaml` holds is a recipe's, or the last commit's."""
    content = PARAMS.read_bytes()
    if any(content == path.read_bytes() for path in FOLDER.glob("*.yaml")):
        return True
    last = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, check=False)
    return last.returncode == 0 and last.stdout == content
