"""The schema says what the classes say, the repository's file spells out all of it, and both checks agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from models.params import Model
from pipeline import quickcheck, schema
from pipeline.core import params
from pipeline.core.params import KEYS, flatten
from pipeline.fitting.space import Domain
from pipeline.quickcheck import fits_schema
from pipeline.schema import Params, check_all, kind_of
from tests.wrong import BROKEN, GIVEN, ROOT, SCHEMA, WRONG, refusal, with_line, written

# What the repository's params.yaml sets otherwise than the classes do, on purpose.
OTHERWISE: set[str] = set()


def test_the_schema_in_the_repository_is_the_generated_one() -> None:
    assert SCHEMA.read_text() == schema.schema_text(), "run 'make schema'"


def test_the_repository_s_parameters_fit_the_schema_and_the_classes() -> None:
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    Draft202012Validator.check_schema(validator.schema)
    assert [error.message for error in validator.iter_errors(yaml.safe_load(GIVEN))] == []
    check_all(ROOT / "params.yaml")


def plain_defaults() -> dict[str, Any]:
    defaults = Params.model_validate({"name": "mnist", "seed": 7})
    return flatten(defaults.model_dump(mode="json", by_alias=True))


def test_every_field_is_spelt_out_so_that_an_experiment_can_override_it() -> None:
    """`dvc exp run -S train.lr=1` refuses a key that is not in the file."""
    given = flatten(yaml.safe_load(GIVEN))
    expected = plain_defaults().keys() - {"tune.space"}
    assert len(expected) > 90
    assert expected - given.keys() == set(), "spell these out in params.yaml"


def test_what_is_given_is_the_default_except_where_listed() -> None:
    given, defaults = flatten(yaml.safe_load(GIVEN)), plain_defaults()
    assert {key for key, value in defaults.items() if given.get(key, value) != value} == OTHERWISE


def classes(kind: Any) -> Iterator[type[BaseModel]]:
    """Every class of parameters below a type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        yield from chain.from_iterable(classes(field.annotation) for field in kind.model_fields.values())
    yield from chain.from_iterable(classes(inner) for inner in get_args(kind))


def test_every_field_of_every_section_has_a_description_and_refuses_unknown_keys() -> None:
    found = set(classes(Params))
    assert {Domain, Model} < found
    assert len(found) >= 18
    silent = [f"{kind.__name__}.{name}" for kind in found for name, field in kind.model_fields.items()
              if kind is not Params and not field.description]  # fmt: skip
    assert silent == []
    assert [kind.__name__ for kind in found if kind.model_config.get("extra") != "forbid"] == []
    assert all(Params.model_json_schema()["properties"][key].get("description") for key in KEYS)


def test_every_number_is_bounded() -> None:
    """At least on one side, so that a slip of the sign or of the unit is refused."""
    free = [
        f"{kind.__name__}.{name}"
        for kind in set(classes(Params)) - {Domain}
        for name, field in kind.model_fields.items()
        if field.annotation in (int, float) and not params._bounds(field)
    ]
    assert free == []


def test_keys_are_the_sections_in_order() -> None:
    names = [field.alias or name for name, field in Params.model_fields.items()]
    assert tuple(names) == (*KEYS[:4], *names[4:])
    assert set(names) == set(KEYS)


# The quick check and the whole one


@pytest.mark.parametrize("line", WRONG)
def test_the_quick_check_passes_nothing_that_the_whole_check_refuses(line: str, tmp_path: Path) -> None:
    assert not fits_schema(written(tmp_path, with_line(line.partition(":")[0], line)), SCHEMA)


@pytest.mark.parametrize(
    "text",
    [*BROKEN, "name: |\n  mnist\nseed: 7\n", "name: mnist\nseed: 2020-01-01\n", "model: {}\n",
     "name: mnist\nseed: 7\nnmae: x\n", "name: a\nname: b\nseed: 7\n"],
)  # fmt: skip
def test_the_two_checks_agree_on_broken_files(text: str, tmp_path: Path) -> None:
    refusal(tmp_path, text)
    assert not fits_schema(tmp_path / "params.yaml", SCHEMA)


def test_the_quick_check_passes_what_is_right(tmp_path: Path) -> None:
    assert fits_schema(ROOT / "params.yaml", SCHEMA)
    path = written(tmp_path, "name: mnist\nseed: 7\n")
    assert fits_schema(path, SCHEMA)
    assert not fits_schema(path, tmp_path / "no.schema.json")
    check_all(path)


def test_the_quick_check_knows_every_section_with_rules_beyond_a_schema() -> None:
    def strict(kind: type[BaseModel]) -> bool:
        rules = kind.__pydantic_decorators__
        return bool(rules.model_validators or rules.field_validators or rules.root_validators)

    beyond = {key for key in KEYS if any(strict(kind) for kind in classes(kind_of(key)))}
    assert beyond == (quickcheck.BEYOND.keys() - {"name"}) | {"tune"}, "tune.space is checked by its corners"


# The command


def fairlead_check(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "check"], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_command_passes_a_right_file_without_loading_a_stage_s_libraries(tmp_path: Path) -> None:
    written(tmp_path, GIVEN)
    (tmp_path / "params.schema.json").write_bytes(SCHEMA.read_bytes())
    done = fairlead_check(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "params.yaml is right\n", "")
    loads = "import sys, pipeline.quickcheck; print(*({'torch', 'mlflow', 'optuna', 'pandas'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    loaded = subprocess.run(
        [sys.executable, "-c", loads], env=environment, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == ""


@pytest.mark.slow
def test_the_command_refuses_wrong_keys_with_exit_code_1_and_no_traceback(tmp_path: Path) -> None:
    content = yaml.safe_load(GIVEN) | {"prepare": {"val": 0.6, "test": 0.6}, "seed": -1}
    written(tmp_path, yaml.safe_dump(content))
    (tmp_path / "params.schema.json").write_bytes(SCHEMA.read_bytes())
    done = fairlead_check(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("error: params.yaml, line ")
    assert "'seed' must be at least 0" in first
    assert "val + test is 1.2" in second


@pytest.mark.slow
def test_the_command_tells_a_missing_file(tmp_path: Path) -> None:
    done = fairlead_check(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: params.yaml does not exist here")
    assert len(done.stderr.splitlines()) == 1
