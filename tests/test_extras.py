"""Packages that only some recipes need: `make repro` installs them, and nothing where they are not needed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pipeline import extras
from tests.road import ROOT


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What pip would have been asked; nothing is installed."""
    words: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extras.subprocess, "call", lambda command: words.append(command) or 3)
    monkeypatch.setitem(extras.NEEDS, "vowels", "no_such_package")
    return words


def test_a_source_whose_package_is_absent_has_it_installed(
    asked: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text("data: {source: vowels}\n")
    assert extras.main() == 3
    assert asked[0][1:4] == ["-m", "pip", "install"]
    assert asked[0][-4:] == ["--constraint", "constraints.txt", "--editable", ".[examples]"]
    assert "'vowels' needs the package 'no_such_package'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "data: {source: mnist}\n",
        "data: {source: plaid}\n",
        "data: 3\n",
        "data: {source: [1]}\n",
        "a: [\n",
        "",
    ],
)
def test_nothing_is_installed_where_nothing_is_needed(
    asked: list[list[str]], tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extras.NEEDS, "plaid", "json")  # a package that is there
    (tmp_path / "params.yaml").write_text(text)
    assert extras.main() == 0
    assert asked == []


def test_every_package_is_in_the_extra_and_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {re.split(r"[<>=]", name)[0] for name in project["optional-dependencies"]["examples"]}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert set(extras.NEEDS.values()) == listed
    assert listed <= pinned


def test_make_repro_asks_before_the_stages_run() -> None:
    recipe = re.search(r"^repro:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    steps = [line.strip().lstrip("@") for line in recipe[1].splitlines()]
    assert steps.index("python -m pipeline.extras") < steps.index("dvc repro")
