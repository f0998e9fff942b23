"""`params.yaml`: one clear message for each wrong key, and a schema that says what the classes say."""

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
from pipeline.core.params import KEYS, UserError, flatten, parse, section
from pipeline.fitting.fit import Train
from pipeline.fitting.space import Domain, check, override
from pipeline.quickcheck import fits_schema
from pipeline.schema import Params, check_all, kind_of

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "params.schema.json"
GIVEN = (ROOT / "params.yaml").read_text()
# What the repository's params.yaml sets otherwise than the classes do, on purpose.
OTHERWISE: set[str] = set()


def written(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    params._read.cache_clear()
    return path


def with_line(key: str, line: str) -> str:
    """The repository's file with one top-level key replaced by `line`."""
    content = yaml.safe_load(GIVEN)
    content.pop(key, None)
    return f"# a comment\n{line}\n" + yaml.safe_dump(content)


def refusal(folder: Path, text: str) -> str:
    """What `check_all` says of a file, told without its folder."""
    path = written(folder, text)
    with pytest.raises(UserError) as told:
        check_all(path)
    return str(told.value).replace(str(path), "params.yaml")


WRONG = {  # a section as one line of YAML (the file's second): all of the message
    "model: {widht: 3}": "unknown key 'model.widht'; did you mean 'width'? "
    "(allowed: family, width, depth, dropout, activation)",
    "model: {width: 0}": "'model.width' must be at least 1 and at most 4096; found 0",
    "model: {width: 4097}": "'model.width' must be at least 1 and at most 4096; found 4097",
    "model: {dropout: 1}": "'model.dropout' must be at least 0 and below 1; found 1",
    "model: {dropout: .nan}": "'model.dropout' must be at least 0 and below 1; found nan",
    "model: {width: many}": "'model.width' must be a valid integer; found 'many'",
    "model: {width: null}": "'model.width' must be a valid integer; found null",
    "model: {family: rnn}": "'model.family' must be 'cnn' or 'fnn'; found 'rnn'",
    "model: {1: 2}": "'model.1' must be text, as every key is; found 1",
    "model: [cnn]": "'model' must hold keys with values (allowed: family, width, depth, dropout, activation); "
    "found ['cnn']",
    "model: {width: 1, width: 2}": "'model.width' is given twice",
    "data: {image: {hieght: 3}}": "unknown key 'data.image.hieght'; did you mean 'height'? "
    "(allowed: height, width, channels, background, min_side, max_side)",
    "data: {image: {height: 2000}}": "'data.image.height' must be at least 4 and at most 1024; found 2000",
    "data: {image: 3}": "'data.image' must hold keys with values "
    "(allowed: height, width, channels, background, min_side, max_side); found 3",
    "train: {augmentation: {rotation: 200}}": "'train.augmentation.rotation' must be at least 0 and at most 180; "
    "found 200",
    "train: {lr: -1}": "'train.lr' must be at least 0 and at most 10; found -1",
    "prepare: {val: 0.6, test: 0.6}": "'prepare': val + test is 1.2; they must leave some for training; "
    "found {'val': 0.6, 'test': 0.6}",
    "server: {host: 0.0.0.0}": "'server.host' must be '127.0.0.1'; found '0.0.0.0'",
    "server: {inference_port: 8082}": "'server': inference_port, management_port, metrics_port must differ; "
    "found {'inference_port': 8082}",
    "server: {heap: lots}": "'server.heap' must match ^[1-9][0-9]*[mg]$ "
    "(Java's largest heap: '512m', '2g'.); found 'lots'",
    "seed: -1": "'seed' must be at least 0 and below 2147483648; found -1",
    "seed: seven": "'seed' must be a valid integer; found 'seven'",
    "tune: {space: {train.lr: {lwo: 1}}}": "unknown key 'tune.space.train.lr.lwo'; did you mean 'low'? "
    "(allowed: low, high, log, choices)",
    "tune: {space: {train.lr: {low: a, high: 1}}}": "'tune.space.train.lr.low' must be a valid integer or "
    "a valid number; found 'a'",
    "tune: {space: {train.lr: {choices: [[1]]}}}": "'tune.space.train.lr.choices.0' must be a valid boolean or "
    "a valid integer or a valid number or a valid string; found [1]",
    "tune: {space: {train.lr: 3}}": "'tune.space.train.lr' must hold keys with values "
    "(allowed: low, high, log, choices); found 3",
    "tune: {space: {train.lr: {low: 1}}}": "'tune.space.train.lr': give either 'choices' or both 'low' and "
    "'high'; found {'low': 1}",
    "tune: {space: {train.lr: {low: 1, high: 2, choices: [1]}}}": "'tune.space.train.lr': give either 'choices' "
    "or both 'low' and 'high'; found {'low': 1, 'high': 2, 'choices': [1]}",
    "tune: {space: {train.lr: {low: 2, high: 2}}}": "'tune.space.train.lr': 'low' (2) must be below 'high' (2); "
    "found {'low': 2, 'high': 2}",
    "tune: {space: {train.lr: {low: 0, high: 2, log: true}}}": "'tune.space.train.lr': 'low' (0) must be above 0 "
    "where 'log' is true; found {'low': 0, 'high': 2, 'log': True}",
    "tune: {space: {train.lrr: {low: 0.1, high: 1}}}": "tune.space: unknown key 'train.lrr'; did you mean 'lr'? "
    "(allowed: lr, weight_decay, warmup, label_smoothing, class_weights, focal, huber, l1, mixup, cutmix, ema, "
    "max_epochs, batch_size, patience, sampling, doctor, gradient_clip, precision, augmentation)",
    "tune: {space: {train.lr: {low: 0.1, high: 11}}}": "tune.space: 'train.lr' must be at least 0 and at most 10; "
    "found 11",
    "tune: {space: {train.lr.x: {low: 0.1, high: 1}}}": "tune.space: unknown key 'train.lr.x': 'train.lr' holds "
    "a value and no keys",
    "tune: {space: {model.family: {choices: [cnn, rnn]}}}": "tune.space: 'model.family' must be 'cnn' or 'fnn'; "
    "found 'rnn'",
    "tune: {space: {prepare.val: {low: 0.1, high: 0.2}}}": "tune.space: 'prepare.val' cannot be tuned; "
    "expected model.<name>, train.<name>",
    "tune: {space: {train: {low: 0.1, high: 0.2}}}": "tune.space: 'train' cannot be tuned; "
    "expected model.<name>, train.<name>",
    "tune: {space: {1: {low: 1, high: 2}}}": "'tune.space.1' must be a valid string; found 1",
}  # fmt: skip
BROKEN = {  # a whole file: all of the message
    "": "params.yaml must hold keys such as 'name:' and 'train:'; found an empty file",
    "# nothing\n": "params.yaml must hold keys such as 'name:' and 'train:'; found an empty file",
    "- name\n": "params.yaml must hold keys such as 'name:' and 'train:'; found list",
    "name\n": "params.yaml must hold keys such as 'name:' and 'train:'; found str",
    "name: mnist\n\tseed: 7\n": "params.yaml, line 2, column 1: not valid YAML: found character '\\t' that cannot "
    "start any token; indent with spaces",
    "name: mnist\nseed: [7\n": "params.yaml, line 3, column 1: not valid YAML: expected ',' or ']', but got "
    "'<stream end>'",
    "name: mnist\nseed: *x\n": "params.yaml, line 2, column 7: not valid YAML: found undefined alias 'x'",
    "name: a\n---\nname: b\n": "params.yaml, line 2, column 1: not valid YAML: but found another document",
    "? [a]\n: 3\n": "params.yaml, line 1, column 3: not valid YAML: found unhashable key",
    "name: !!python/object/apply:os.getcwd []\n": "params.yaml, line 1, column 7: not valid YAML: could not "
    "determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_key_gives_one_message_with_file_line_key_and_what_is_allowed(
    line: str, tmp_path: Path
) -> None:
    text = with_line(line.partition(":")[0], line)
    assert refusal(tmp_path, text) == f"params.yaml, line 2: {WRONG[line]}"


def test_a_nested_key_is_told_with_its_own_line(tmp_path: Path) -> None:
    text = with_line("train", "train:\n  lr: 0.1\n  augmentation:\n    flip: 2")
    assert refusal(tmp_path, text) == (
        "params.yaml, line 5: 'train.augmentation.flip' must be at least 0 and at most 1; found 2"
    )
    text = with_line("tune", "tune:\n  trials: 1\n  space:\n    train.lr: {low: 1, high: 99}")
    assert refusal(tmp_path, text).startswith(
        "params.yaml, line 5: tune.space: 'train.lr' must be at least 0"
    )


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, text) == BROKEN[text]


def test_an_unknown_section_is_told_with_the_nearest_known_one(tmp_path: Path) -> None:
    assert refusal(tmp_path, f"{GIVEN}\ntrian: {{lr: 1}}\n") == (
        f"params.yaml, line {len(GIVEN.splitlines()) + 2}: unknown key 'trian'; did you mean 'train'? "
        f"(allowed: {', '.join(KEYS)})"
    )


def test_a_repeated_key_is_refused_at_every_depth(tmp_path: Path) -> None:
    text = "name: a\nseed: 1\ntrain:\n  lr: 1\n  augmentation: {flip: 0, flip: 1}\n  lr: 2\nname: b\n"
    assert refusal(tmp_path, text).splitlines() == [
        "params.yaml, line 5: 'train.augmentation.flip' is given twice",
        "params.yaml, line 6: 'train.lr' is given twice",
        "params.yaml, line 7: 'name' is given twice",
    ]


def test_an_alias_to_itself_ends_in_a_message(tmp_path: Path) -> None:
    message = refusal(tmp_path, with_line("model", "model: &m {width: *m}"))
    assert message.startswith("params.yaml, line 2: 'model.width' must be a valid integer; found {")


def test_an_anchor_may_be_used_twice(tmp_path: Path) -> None:
    shared = "name: m\nseed: 7\naugment: {transform: &t {flip: 0.5}}\ntrain: {augmentation: *t}\n"
    path = written(tmp_path, shared)
    check_all(path)
    assert section("train", Train, path).augmentation.flip == 0.5


def test_a_long_value_is_shortened(tmp_path: Path) -> None:
    message = refusal(tmp_path, with_line("model", f"model: {{family: {'x' * 500}}}"))
    assert message.endswith("x...")
    assert len(message) < 200


def test_all_wrong_keys_are_told_at_once(tmp_path: Path) -> None:
    content = yaml.safe_load(GIVEN)
    content |= {
        "model": {"width": 0, "dpeth": 1},
        "seed": -1,
        "nmae": 1,
        "prepare": {"val": 0.6, "test": 0.6},
    }
    content["tune"]["space"] = {"train.lr": {"low": 1, "high": 99}, "train.nope": {"choices": [1]}}
    told = refusal(tmp_path, yaml.safe_dump(content, sort_keys=False)).splitlines()
    keys = ("'nmae'", "'seed'", "'model.width'", "'model.dpeth'", "'prepare'")
    assert [line for line in told if "params.yaml, line " not in line] == []
    assert len(told) == len(keys)
    assert all(key in line for key, line in zip(keys, told, strict=True))
    content["model"] = {}
    told = refusal(tmp_path, yaml.safe_dump(content, sort_keys=False)).splitlines()
    assert len(told) == 5
    assert [word in line for line, word in zip(told[3:], ("'train.lr'", "'train.nope'"), strict=True)] == [
        True
    ] * 2


def test_a_missing_file_and_missing_keys_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.yaml does not exist here; run from the project's folder"):
        section("model", Model, tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match=r"nowhere.yaml does not exist here"):
        check_all(tmp_path / "nowhere.yaml")
    assert refusal(tmp_path, "model: {}\n").splitlines() == [
        "params.yaml: 'name' is missing",
        "params.yaml: 'seed' is missing",
    ]


@pytest.mark.parametrize("content", [b"name: \xff\xfe\n", b"name: mnist\x00\n"])
def test_a_file_that_is_no_text_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"params.yaml(: not valid YAML| cannot be read)"):
        check_all(path)
    assert not fits_schema(path, SCHEMA)


def test_a_section_that_is_left_out_or_empty_takes_its_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "name: mnist\nseed: 7\nmodel:\n")
    check_all(path)
    assert section("model", Model, path) == Model()


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for number, width in enumerate((3, 4)):
        path.write_text(f"model: {{width: {width}}}")
        os.utime(path, (number, number))
        assert section("model", Model, path).width == width


# The schema


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


# The search space


def test_a_space_is_checked_at_its_corners() -> None:
    sections = {"model": Model(width=8)}
    for width in ({"low": 1, "high": 4096}, {"choices": [1, 4096]}):
        check({"model.width": Domain.model_validate(width)}, sections)
    for width in (
        {"low": 0, "high": 9},
        {"low": 1, "high": 4097},
        {"choices": [8, 9, 5000]},
        {"low": 0.5, "high": 2},
    ):
        with pytest.raises(UserError, match=r"tune.space: 'model.width' must be"):
            check({"model.width": Domain.model_validate(width)}, sections)


def test_an_override_changes_its_own_section_alone() -> None:
    values = {"model.width": 3, "train.lr": 1}
    assert override(Model(depth=5), "model", values) == Model(depth=5, width=3)
    with pytest.raises(UserError, match=r"unknown key 'model.lr'"):
        override(Model(), "model", {"model.lr": 1})


def test_flatten_and_parse() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}
    assert parse(GIVEN) == yaml.safe_load(GIVEN)


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
