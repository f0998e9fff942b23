"""`fairlead recipe`: lists what there is, puts one in place, and loses nobody's changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "recipe", *words]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


def test_all_are_listed_with_their_purpose(folder: Path) -> None:
    lines = run(folder).stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in ROOT.glob("recipes/*.yaml"))
    assert all(len(line) > 40 for line in lines)


def test_one_is_put_in_place_and_another_after_it(folder: Path) -> None:
    for name in ("vowels", "mnist", "loanapp"):
        assert "'make repro' runs it" in run(folder, name).stdout
        assert (folder / "params.yaml").read_bytes() == (ROOT / "recipes" / f"{name}.yaml").read_bytes()


def test_changes_of_ones_own_are_kept(folder: Path) -> None:
    own = (folder / "params.yaml").read_text().replace("seed: 7", "seed: 8")
    (folder / "params.yaml").write_text(own)
    done = run(folder, "vowels")
    assert done.returncode == 1
    assert "neither committed nor a recipe's" in done.stderr
    assert (folder / "params.yaml").read_text() == own
    assert run(folder, "vowels", "--force").returncode == 0
    assert (folder / "params.yaml").read_text() != own


def test_an_unknown_one_is_told(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    done = run(folder, "vowel")
    assert done.returncode == 1
    assert "no recipe 'vowel'; did you mean 'vowels'?" in done.stderr
    assert "no recipes/ here" in run(tmp_path_factory.mktemp("empty")).stderr
