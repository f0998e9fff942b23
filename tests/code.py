"""Reads the project's own code: what a stage imports, ships and draws with. `make deps` writes it into dvc.yaml."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from jinja2 import Environment, meta
from ruamel.yaml import YAML

from serving.archive import PACKAGE

ROOT = Path(__file__).parents[1]
STAGES = (
    "ingest", "validate", "prepare", "augment", "tune", "train", "evaluate", "export", "certify", "promote",
)  # fmt: skip
TEMPLATES = "pipeline/templates"
FIRST_PARTY = ("pipeline", "models", "serving")
# A stage that needs more than half the files of such a folder depends on the folder.
FOLDERS = (
    "models", "pipeline/checks", "pipeline/core", "pipeline/duplicates", "pipeline/engine", "pipeline/facts",
    "pipeline/fitting", "pipeline/sources", "pipeline/transforms", "pipeline/tuning", TEMPLATES, "serving/inputs",
    "serving/worker",
)  # fmt: skip


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(), file)


def sources(*packages: str) -> list[str]:
    """Every Python file of some packages, from the root on."""
    return [
        path.relative_to(ROOT).as_posix()
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def imported(file: str) -> set[str]:
    """The dotted names that a file imports, anywhere in it; `from a import b` may mean the module `a.b`."""
    names: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports are not followed here"
            names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def importers(module: str, *packages: str) -> set[str]:
    """The files of some packages that import a module or a part of it."""
    return {
        file for file in sources(*packages) if module in {name.partition(".")[0] for name in imported(file)}
    }


def modules_of(name: str) -> Iterator[str]:
    """The files that importing a dotted name runs: every package on the way, and the module."""
    parts = name.split(".")
    if parts[0] in FIRST_PARTY:
        for depth in range(1, len(parts) + 1):
            stem = "/".join(parts[:depth])
            yield from (file for file in (f"{stem}/__init__.py", f"{stem}.py") if (ROOT / file).exists())


@cache
def closure(stage: str) -> frozenset[str]:
    """Every first-party file that a stage can load."""
    seen: set[str] = set()
    waiting = list(modules_of(f"pipeline.{stage}"))
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += [found for name in imported(file) for found in modules_of(name)]
    return frozenset(seen)


def texts(*files: str) -> set[str]:
    """Every string constant of some files."""
    nodes = (node for file in files for node in ast.walk(tree(file)))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def called(function: str, file: str) -> list[ast.Call]:
    """The calls of a function, by its own name or as an attribute."""
    calls = (node for node in ast.walk(tree(file)) if isinstance(node, ast.Call))
    return [call for call in calls if getattr(call.func, "attr", getattr(call.func, "id", "")) == function]


def shipped(stage: str) -> set[str]:
    """Code that a stage packs without importing it: `serving`'s share of the archive and of the MLflow model."""
    if not called("build_archive", f"pipeline/{stage}.py"):
        return set()
    named = texts("serving/archive.py", "pipeline/tracking.py") | set(PACKAGE)
    return {
        f"serving/{name}" for name in named if name.endswith(".py") and (ROOT / "serving" / name).is_file()
    }


def templates(stage: str) -> set[str]:
    """The templates that the stage's code names, with those that they extend or import."""
    waiting = [text for text in texts(*closure(stage)) if text.endswith(".j2")]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            parsed = Environment(autoescape=True).parse((ROOT / TEMPLATES / name).read_text())
            waiting += [other for other in meta.find_referenced_templates(parsed) if other]
    return {f"{TEMPLATES}/{name}" for name in found}


def needed(stage: str) -> set[str]:
    """Every file of the project that a stage runs, ships or draws with."""
    return set(closure(stage)) | shipped(stage) | templates(stage)


def code_deps(stage: str) -> list[str]:
    """What the stage names in `dvc.yaml` for these files."""
    files = needed(stage)
    for folder in FOLDERS:
        whole = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("*.*")}
        if len(files & whole) > len(whole) / 2:
            files = files - whole | {folder}
    return sorted(files)


def main() -> None:
    """Write the code that each stage depends on into dvc.yaml anew; data and all else stay as they are."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    path = ROOT / "dvc.yaml"
    content = yaml.load(path)
    for stage in STAGES:
        old = content["stages"][stage]["deps"]
        data = [dep for dep in old if dep.startswith(("data/", "${"))]
        old[:] = data + code_deps(stage)
    yaml.dump(content, path)


if __name__ == "__main__":
    main()
