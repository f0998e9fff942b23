"""`params.yaml`: one clear message for each wrong key, with its file, its line and what is allowed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from models.params import Model
from pipeline.core.params import KEYS, UserError, flatten, parse, section
from pipeline.fitting.fit import Train
from pipeline.fitting.space import Domain, check, override
from pipeline.quickcheck import fits_schema
from pipeline.schema import check_all
from tests.wrong import BROKEN, GIVEN, SCHEMA, WRONG, refusal, with_line, written


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
    assert len(message) < 300


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
