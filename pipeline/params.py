"""Reads `params.yaml`: typed sections, and one clear message when a key is wrong."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

PARAMS = Path("params.yaml")
KEYS = (
    "name", "seed", "data", "model", "ingest", "validate", "prepare", "augment", "tune", "train",
    "evaluate", "export", "certify", "promote", "compute", "tracking", "server",
)  # fmt: skip
T = TypeVar("T")


class UserError(ValueError):
    """Something the user can mend: printed without a traceback, exit code 1."""


class Section(BaseModel, extra="forbid", frozen=True):
    """Base of every section of `params.yaml`: unknown keys refused, values bounded."""


def parse(text: str, path: Path = PARAMS) -> dict[str, Any]:
    """Parse parameters, refusing broken YAML and unknown or duplicate top-level keys."""
    try:
        content = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys such as 'name:' and 'train:'; found {type(content).__name__}")
    assert isinstance(node, yaml.MappingNode)
    seen: set[str] = set()
    for key, _ in node.value:
        where = f"{path}, line {key.start_mark.line + 1}"
        if key.value not in KEYS:
            raise UserError(f"{where}: unknown key '{key.value}'{_nearest(key.value, KEYS)}")
        if key.value in seen:
            raise UserError(f"{where}: '{key.value}' is given twice")
        seen.add(key.value)
    return content


@cache
def _read(path: Path, stamp: float) -> tuple[str, dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    return text, parse(text, path)


def section(key: str, kind: type[T], path: Path | None = None) -> T:
    """Read one top-level key of `params.yaml` as `kind`; what is not given takes its default.

    Raises:
        UserError: the file is missing or broken, or a key of the section is unknown or out of range.
    """
    path = path or PARAMS
    if not path.exists():
        raise UserError(f"{path} does not exist here; run from the project's folder (see recipes/)")
    text, content = _read(path, path.stat().st_mtime)
    given = content.get(key)
    if given is None:
        if not _is_model(kind):
            raise UserError(f"{path}: '{key}' is missing")
        given = {}
    return validate(kind, given, key, text, path)


def validate(kind: type[T], given: Any, key: str, text: str = "", path: Path = PARAMS) -> T:
    """Check plain values against a typed section; errors name the dotted key and its line."""
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        lines = [_explain(problem, kind, key, text, path) for problem in error.errors(include_url=False)]
        raise UserError("\n".join(lines)) from None


def _explain(problem: Any, kind: type, key: str, text: str, path: Path) -> str:
    location = [str(part) for part in problem["loc"]]
    dotted = ".".join([key, *location])
    line = _line([key, *location], text)
    where = f"{path}, line {line}" if line else str(path)
    if problem["type"] == "extra_forbidden":
        known = _fields(kind, location[:-1])
        return f"{where}: unknown key '{dotted}'{_nearest(location[-1], known)}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where}: '{dotted}': {message}; found {problem['input']!r}"


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _fields(kind: Any, location: list[str]) -> tuple[str, ...]:
    for part in location:
        kind = kind.model_fields[part].annotation if _is_model(kind) and part in kind.model_fields else None
    return tuple(kind.model_fields) if _is_model(kind) else ()


def _nearest(word: str, known: tuple[str, ...]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{match[0]}'?" if match else ""
    return f"{hint} (allowed: {', '.join(known)})" if known else hint


def _line(location: list[str], text: str) -> int | None:
    """Line of a key, as far down the path as the file goes."""
    node = yaml.compose(text, Loader=yaml.SafeLoader) if text else None
    found = None
    for part in location:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        pair = next(((key, value) for key, value in pairs if key.value == part), None)
        if pair is None:
            break
        found, node = pair[0].start_mark.line + 1, pair[1]
    return found


def fits_schema(path: Path = PARAMS, schema: Path = Path("params.schema.json")) -> bool:
    """True where the file surely fits the generated schema; costs no import of any stage."""
    import json

    from jsonschema import Draft202012Validator

    if not (path.exists() and schema.exists()):
        return False
    return Draft202012Validator(json.loads(schema.read_text())).is_valid(parse(path.read_text(), path))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
