"""A check of `params.yaml` that takes half a second, as it loads no stage: what it finds right is right."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from pipeline.core.params import KEYS, PARAMS, parse, read, section, take
from pipeline.core.project import Name
from pipeline.core.stage import DATA, LOCK
from pipeline.fitting.contradictions import contradictions
from pipeline.folds import scheme_of
from pipeline.goals import check_goal
from pipeline.prepare import Prepare
from pipeline.transforms import check as check_choices
from pipeline.tuning.agreement import check as agree
from pipeline.tuning.settings import Tune
from serving.inputs.spec import read_spec
from serving.settings import ServerSettings

SCHEMA = Path("params.schema.json")
# Sections with rules that a JSON schema cannot say, such as a sum; tests/test_params.py finds a missing one.
BEYOND: dict[str, Any] = {"name": Name, "prepare": Prepare, "server": ServerSettings}
TOGETHER: dict[str, Any] = {"tune": Tune, "prepare": Prepare}  # that may contradict each other


def fits_schema(path: Path = PARAMS, schema: Path = SCHEMA) -> bool:
    """True where the file is surely right; where it is False, `pipeline.schema.check_all` tells why."""
    try:
        text = read(path)
        content = parse(text, path)
        json.dumps(content, allow_nan=False)  # a date or a NaN is nothing that a schema can judge
        fits = Draft202012Validator(json.loads(read(schema))).is_valid
        if not fits(content) or contradictions(content):
            return False
        for key, kind in BEYOND.items():
            take(key, kind, content, text, path)
        tune, prepare = (take(key, kind, content, text, path) for key, kind in TOGETHER.items())
        agree(tune, prepare.folds.number, path, prepare.folds.inner)
    except (ValueError, TypeError):
        return False
    corners = ((dotted, value) for dotted, domain in tune.space.items() for value in domain.corners())
    return all(fits(overridden(content, dotted, value)) for dotted, value in corners)


def not_spelled_out(path: Path = PARAMS) -> list[str]:
    """What DVC needs written in the file, as it tracks it, though our own defaults would do."""
    content = parse(read(path), path)
    missing = [key for key in KEYS if key not in content]
    if "data" in content and "path" not in (content["data"] or {}):
        missing.append("data.path")
    return missing


def check_known_data(path: Path = PARAMS) -> None:
    """Refuse what does not fit the data, where these are known: ingested with the very section `data` of now.

    Raises:
        UserError: `promote.metric` is no metric of their task, or `prepare` asks for what they have not.
    """
    spec = DATA / "ingest" / "spec.json"
    if not spec.exists() or not LOCK.exists():
        return
    lock = yaml.safe_load(LOCK.read_text(encoding="utf-8"))
    used = (((lock or {}).get("stages") or {}).get("ingest") or {}).get("params") or {}
    if used.get(PARAMS.name, {}).get("data") == parse(read(path), path).get("data"):
        check_goal(read_spec(spec.parent))
        prepare = section("prepare", Prepare, path)
        check_choices(read_spec(spec.parent), prepare.tokenizer, prepare.scaling)
        if prepare.folds.number:
            scheme_of(read_spec(spec.parent), prepare.folds)


def overridden(content: dict[str, Any], dotted: str, value: Any) -> dict[str, Any] | None:
    """The parameters with one value of the search space; None where its key cannot be tuned."""
    content = copy.deepcopy(content)
    *path, name = dotted.split(".")
    if not path or path[0] not in ("model", "train"):
        return None
    node: Any = content
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            return None
    node[name] = value
    return content
