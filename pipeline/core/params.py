"""Reads `params.yaml`: typed sections, and one clear message when a key is wrong."""

from __future__ import annotations

import difflib
from functools import cache, reduce
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

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


def read(path: Path) -> str:
    """The text of a parameter file.

    Raises:
        UserError: it is missing, or is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist here; run from the project's folder (see recipes/)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def parse(text: str, path: Path = PARAMS) -> dict[str, Any]:
    """Parse parameters, refusing broken YAML, unknown top-level keys, and keys that are given twice."""
    content, problems = examine(text, path)
    if problems:
        raise UserError("\n".join(problems))
    return content


def examine(text: str, path: Path = PARAMS) -> tuple[dict[str, Any], list[str]]:
    """Parse parameters; give them with one line for each unknown top-level key and each repeated key.

    Raises:
        UserError: it is not YAML, or holds no keys.
    """
    try:
        content = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(_broken(error, path)) from None
    if not isinstance(content, dict):
        found = "an empty file" if content is None else type(content).__name__
        raise UserError(f"{path} must hold keys such as 'name:' and 'train:'; found {found}")
    assert isinstance(node, yaml.MappingNode)
    problems = [
        f"{path}, line {key.start_mark.line + 1}: unknown key '{key.value}'{_nearest(key.value, KEYS)}"
        for key, _ in node.value
        if key.value not in KEYS
    ]
    return content, problems + [
        f"{path}, line {line}: '{name}' is given twice" for line, name in _twice(node)
    ]


def _broken(error: yaml.YAMLError, path: Path) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{where}: not valid YAML: {problem}{'; indent with spaces' if chr(92) + 't' in problem else ''}"


def _twice(root: yaml.Node) -> list[tuple[int, str]]:
    """Line and dotted name of each key that its mapping holds already; an alias is looked at once."""
    found, seen, waiting = [], set(), [("", root)]
    while waiting:
        prefix, node = waiting.pop()
        if not isinstance(node, yaml.MappingNode) or id(node) in seen:
            continue
        seen.add(id(node))
        names: set[str] = set()
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            if key.value in names:
                found.append((key.start_mark.line + 1, dotted))
            names.add(key.value)
            waiting.append((f"{dotted}.", value))
    return sorted(found)


@cache
def _read(path: Path, stamp: float) -> tuple[str, dict[str, Any]]:
    text = read(path)
    return text, parse(text, path)


def section(key: str, kind: type[T], path: Path | None = None) -> T:
    """Read one top-level key of `params.yaml` as `kind`; what is not given takes its default.

    Raises:
        UserError: the file is missing or broken, or a key of the section is unknown or out of range.
    """
    path = path or PARAMS
    text, content = _read(path, path.stat().st_mtime if path.exists() else 0.0)
    return take(key, kind, content, text, path)


def take(key: str, kind: type[T], content: dict[str, Any], text: str, path: Path = PARAMS) -> T:
    """One top-level key of the parsed parameters as `kind`."""
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
        problems: dict[tuple[str, ...], list[Any]] = {}
        for problem in error.errors(include_url=False):
            problems.setdefault(_inside(given, problem["loc"]), []).append(problem)
        lines = [
            f"{where((key, *at), text, path)}: {_explain(all_, kind, key, at)}"
            for at, all_ in problems.items()
        ]
        raise UserError("\n".join(lines)) from None


def _inside(given: Any, location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The part of a location that the file holds; pydantic adds the types of a union that it tried."""
    kept = []
    for part in location:
        held = (isinstance(given, dict) and part in given) or (
            isinstance(given, list) and isinstance(part, int)
        )
        if not held:
            break
        kept.append(str(part))
        given = given[part]
    return tuple(kept)


def _explain(problems: list[Any], kind: Any, key: str, location: tuple[str, ...]) -> str:
    """What is wrong with one key, what is allowed, and what was found."""
    dotted, first = ".".join([key, *location]), problems[0]
    if first["type"] == "extra_forbidden":
        return f"unknown key '{dotted}'{_nearest(location[-1], _fields(kind, location[:-1]))}"
    if first["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        said = f"must be {_bounds(_field(kind, location))}"
    elif first["type"] in ("model_type", "dict_type"):
        said = f"must hold keys with values (allowed: {', '.join(_fields(kind, location)) or 'any'})"
    elif first["type"] == "value_error":
        return f"'{dotted}': {first['ctx']['error']}; found {_shown(first['input'])}"
    elif first["type"] == "invalid_key":
        said = "must be text, as every key is"
    else:
        tried = [
            problem["msg"].split(", unable to")[0].removeprefix("Input should be ") for problem in problems
        ]
        said = f"must be {' or '.join(dict.fromkeys(tried))}"
        if first["type"] == "string_pattern_mismatch":
            field = _field(kind, location)
            said = f"must match {first['ctx']['pattern']} ({field.description if field else ''})"
    return f"'{dotted}' {said}; found {_shown(first['input'])}"


def _shown(value: Any) -> str:
    found = "null" if value is None else repr(value)
    return found if len(found) < 80 else found[:77] + "..."


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _step(kind: Any, part: str) -> Any:
    """The type of what a model, or a mapping, holds under a key."""
    if _is_model(kind):
        return kind.model_fields[part].annotation if part in kind.model_fields else None
    return (get_args(kind) or (None,))[-1]


def _fields(kind: Any, location: tuple[str, ...]) -> tuple[str, ...]:
    kind = reduce(_step, location, kind)
    return tuple(kind.model_fields) if _is_model(kind) else ()


def _field(kind: Any, location: tuple[str, ...]) -> FieldInfo | None:
    """What is declared of a key: its bounds, its description."""
    if not location:
        return next((note for note in get_args(kind) if isinstance(note, FieldInfo)), None)
    owner = reduce(_step, location[:-1], kind)
    return owner.model_fields.get(location[-1]) if _is_model(owner) else None


def _bounds(field: FieldInfo | None) -> str:
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    notes = field.metadata if field else []
    return " and ".join(
        f"{word} {getattr(n, name)}" for n in notes for name, word in words.items() if hasattr(n, name)
    )


def _nearest(word: str, known: tuple[str, ...]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{match[0]}'?" if match else ""
    return f"{hint} (allowed: {', '.join(known)})" if known else hint


def where(location: tuple[str, ...], text: str, path: Path = PARAMS) -> str:
    """File and line of a key, as far down its location as the file goes."""
    node = yaml.compose(text, Loader=yaml.SafeLoader) if text else None
    line = None
    for part in location:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        pair = next(((key, value) for key, value in pairs if key.value == part), None)
        if pair is None:
            break
        line, node = pair[0].start_mark.line + 1, pair[1]
    return f"{path}, line {line}" if line else str(path)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
