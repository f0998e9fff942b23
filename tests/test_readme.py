"""Every command and every claim about files in README and docs is run or checked."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.core.params import parse
from serving.process import free_ports
from tests.road import ROOT, Road

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def test_links_and_pictures_exist() -> None:
    assert len(PAGES) >= 6
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_map_names_folders_that_exist() -> None:
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", (ROOT / "README.md").read_text(), re.M)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) >= 9
    for name in names:
        assert (ROOT / name).exists(), name


def test_yaml_blocks_are_valid_parameters() -> None:
    found = [block for page in PAGES for block in blocks(page, "yaml")]
    assert found
    for block in found:
        assert parse(block).keys() <= yaml.safe_load((ROOT / "params.yaml").read_text()).keys()


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {word for page in PAGES for word in re.findall(r"`make ([a-z]+)`", page.read_text())}
    assert len(named) >= 5
    assert named <= targets


@pytest.mark.slow
def test_every_shell_command_runs(road: Road, tmp_path: Path) -> None:
    copy = road.copy(tmp_path / "road")
    ports = free_ports()
    copy.set({"server": {**ports, "workers": 1}})
    commands = [
        line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines() if line.strip()
    ]
    assert len(commands) >= 13
    stamps = [
        stamp for name in (".installed", ".installed-dev", "bin/python") for stamp in ("-o", f".venv/{name}")
    ]
    script = ["set -euo pipefail"]
    (copy.folder / ".venv").symlink_to(Path(copy.environment()["PATH"].split(":")[0]).parent)
    for command in commands:
        if command == "make test":
            command = "make -n test"  # this very test is part of it
        command = re.sub(r"^make ", f"make {' '.join(stamps)} ", command)
        script += [
            f"echo '$ {command.split()[0]}'",
            command.replace("127.0.0.1:8080", f"127.0.0.1:{ports['inference_port']}"),
        ]
    done = copy.run("bash", "-c", "\n".join(script), check=False)
    subprocess.run(
        ["python", "-m", "pipeline.cli", "serve", "down"],
        cwd=copy.folder,
        env=copy.environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count('"request_id"') == 2
    experiments = done.stdout.split(
        "$ dvc"
    )  # the command that shows them is the last but one, `metrics diff` the last
    assert all("accuracy" in told for told in experiments[-2:])


@pytest.mark.slow
def test_the_python_in_the_docs_runs(road: Road) -> None:
    found = [block for page in PAGES for block in blocks(page, "python")]
    assert len(found) >= 2
    label = road.json("data/export/bundle/golden/golden.json")["requests"][0]["label"]
    for block in found:
        told = road.run("python", "-c", block)
        assert label in told.stdout
