"""Makes sure that an exported program (`model.pt2`) runs no code while it is loaded.

`torch.export.load` reads two things that can: where a member is no plain tensors it unpickles it without a limit,
after `weights_only=True` has refused it; and it evaluates the expressions of sizes as Python.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Inside the archive's own folder. What is missing here, or in another form, is not what our export writes.
MEMBERS = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|extra/.*|archive_format|archive_version|byteorder|\.data/.*"
)
SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")  # a size that is not known yet
EXPRESSION = re.compile(r"[\w\s+\-*/(),<>=!&|~]*")
CALLED = re.compile(r"(\w+)\s*\(")
FUNCTIONS = {
    *(
        "Integer",
        "Max",
        "Min",
        "Mod",
        "Abs",
        "Add",
        "Mul",
        "Pow",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "And",
        "Or",
        "Not",
    ),
    *(
        "FloorDiv",
        "CleanDiv",
        "CeilDiv",
        "IntTrueDiv",
        "PythonMod",
        "ModularIndexing",
        "TruncToInt",
        "ToFloat",
    ),
}


class ProgramError(ValueError):
    """An exported program that is not loaded, as it could run code."""


def check_program(path: Path) -> None:
    """Make sure that loading a program runs no code of its own.

    Raises:
        ProgramError: it might, or it is no exported program; says which part.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            for name in packed.namelist():
                _check(path, name, packed.read(name))
    except zipfile.BadZipFile:
        raise ProgramError(f"{path} is no exported program: it is not a zip") from None


def _check(path: Path, name: str, content: bytes) -> None:
    inside = name.partition("/")[2]
    if not MEMBERS.fullmatch(inside):
        raise ProgramError(f"{path} holds {name!r}, which no exported program of ours does: it is not loaded")
    if inside.endswith(".pt") and content:  # of sample inputs, which `export` leaves out, nothing is written
        _check_tensors(path, name, content)
    elif inside.endswith(".json"):
        for key, value in _pairs(path, name, content):
            if key == "use_pickle" and value:
                raise ProgramError(f"{path}: {name} says that weights are pickled: they are not loaded")
            if key == "expr_str" and not _harmless(str(value)):
                raise ProgramError(
                    f"{path}: {name} holds the expression {value!r}, which may run code: it is not loaded"
                )


def _check_tensors(path: Path, name: str, content: bytes) -> None:
    import torch

    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # whatever it is that a forged file raises
        raise ProgramError(f"{path}: {name} is a pickle of more than tensors: it is not loaded") from error


def _pairs(path: Path, name: str, content: bytes) -> Iterator[tuple[str, Any]]:
    """Every key and value of a JSON document, however deep."""
    found: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        found.extend(pairs)

    try:
        json.loads(content, object_pairs_hook=keep)
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"{path}: {name} is no JSON: {error}") from None
    return iter(found)


def _harmless(expression: str) -> bool:
    bare = SYMBOL.sub("size", expression)
    return bool(EXPRESSION.fullmatch(bare)) and "__" not in bare and set(CALLED.findall(bare)) <= FUNCTIONS
