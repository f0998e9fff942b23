"""`dvc.yaml` names all that a stage reads, and the packages keep to their borders: read from the code itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from pipeline.core.params import KEYS
from serving.archive import PACKAGE
from tests.code import (
    FOLDERS,
    ROOT,
    STAGES,
    TEMPLATES,
    called,
    closure,
    code_deps,
    needed,
    shipped,
    templates,
    texts,
    tree,
)  # fmt: skip

BEFORE_TEST = STAGES[: STAGES.index("evaluate")]
UNTRACKED = {"compute", "tracking", "server"}  # sections that change no result
DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())
HEAVY = ("torch", "pandas", "sklearn", "cleanlab", "mlflow", "optuna", "pytorch_lightning", "matplotlib")


def entries(stage: str, kind: str) -> dict[str, dict[str, Any]]:
    """The paths of one kind (`outs`, `metrics`) with their settings."""
    listed = DAG["stages"][stage].get(kind, [])
    return {path: settings or {} for entry in listed
            for path, settings in (entry.items() if isinstance(entry, dict) else [(entry, {})])}  # fmt: skip


def outs(stage: str) -> set[str]:
    return {path for kind in ("outs", "metrics", "plots") for path in entries(stage, kind)}


def deps(stage: str, data: bool) -> list[str]:
    """Dependencies, except the user's own files, whose place is a parameter."""
    fixed = [path for path in DAG["stages"][stage]["deps"] if not path.startswith("${")]
    return [path for path in fixed if path.startswith("data/") == data]


def inside(path: str, folders: set[str]) -> bool:
    """True where a path is one of the folders or lies in one."""
    return any(PurePosixPath(path).is_relative_to(folder) for folder in folders)


def data_paths(file: str) -> set[str]:
    """The longest `DATA / "a" / "b"` that a file builds."""
    found, parts = set(), set()
    for node in ast.walk(tree(file)):  # outer expressions come before what they hold
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and node not in parts:
            names: list[str] = []
            at: ast.expr = node
            while isinstance(at, ast.BinOp) and isinstance(at.right, ast.Constant):
                parts.add(at)
                names.insert(0, str(at.right.value))
                at = at.left
            if isinstance(at, ast.Name) and at.id == "DATA":
                found.add("/".join(["data", *names]))
    return found


# The stages


def test_the_ten_stages_stand_in_order_under_one_name_each() -> None:
    assert tuple(DAG["stages"]) == STAGES
    for stage in STAGES:
        assert DAG["stages"][stage]["cmd"] == f"python -m pipeline.{stage}"
        classes = {
            node.name for file in closure(stage) for node in tree(file).body if isinstance(node, ast.ClassDef)
        }
        assert stage.capitalize() in classes
        assert stage in KEYS
        assert all(inside(path, {f"data/{stage}"}) for path in outs(stage))
        assert outs(stage), stage


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_that_a_stage_runs_or_ships_is_its_dependency(stage: str) -> None:
    named = deps(stage, data=False)
    missed = {file for file in needed(stage) if not inside(file, set(named))}
    assert missed == set(), f"stages.{stage}.deps in dvc.yaml misses code; 'make deps' writes it"
    assert named == code_deps(stage), f"stages.{stage}.deps in dvc.yaml; 'make deps' writes it anew"
    assert {path for path in named if (ROOT / path).is_dir()} <= set(FOLDERS)


def test_only_export_ships_and_only_two_stages_draw_pages() -> None:
    assert {stage for stage in STAGES if shipped(stage)} == {"export"}
    assert shipped("export") == {f"serving/{name}" for name in (*PACKAGE, "handler.py", "pyfunc.py")}
    assert {stage for stage in STAGES if templates(stage)} == {"validate", "promote"}
    names = {"base.html.j2", "macros.html.j2"}
    assert templates("validate") == {f"{TEMPLATES}/{name}" for name in names | {"validate.html.j2"}}
    assert templates("promote") == {f"{TEMPLATES}/{name}" for name in names | {"report.html.j2"}}


TRACKING = ("pipeline/mlflow_store.py", "pipeline/tracking.py")


def read_sections(file: str) -> set[str]:
    keys = [call.args[0] for call in called("section", file)]
    assert all(isinstance(key, ast.Constant) for key in keys), f"{file}: section() takes a literal key"
    return {str(key.value) for key in keys if isinstance(key, ast.Constant)}


@pytest.mark.parametrize("stage", STAGES)
def test_the_sections_that_a_stage_reads_are_its_parameters(stage: str) -> None:
    named = DAG["stages"][stage]["params"]
    assert named == sorted(set(named))
    assert not UNTRACKED & set(named), "these change no result and must invalidate no stage"
    read = read_sections(f"pipeline/{stage}.py") - UNTRACKED
    assert read == set(named), f"in dvc.yaml, stages.{stage}: params: [{', '.join(sorted(read))}]"
    deeper = {key for file in closure(stage) - {f"pipeline/{stage}.py", *TRACKING}
              for key in read_sections(file)}  # fmt: skip
    assert deeper <= UNTRACKED | read
    # The tracking side names its experiment after the project, which is in no output.
    assert {key for file in TRACKING for key in read_sections(file)} == {"tracking", "name"}


# Data


@pytest.mark.parametrize("stage", STAGES)
def test_every_output_survives_until_a_whole_new_one_is_written(stage: str) -> None:
    for kind in ("outs", "metrics", "plots"):
        assert [
            path for path, settings in entries(stage, kind).items() if settings.get("persist") is not True
        ] == []


@pytest.mark.parametrize("stage", STAGES)
def test_data_that_a_stage_reads_was_written_by_an_earlier_one(stage: str) -> None:
    earlier = set().union(*(outs(name) for name in STAGES[: STAGES.index(stage)]))
    covered = {path for path in deps(stage, data=True) if any(inside(out, {path}) for out in earlier)}
    assert [
        path for path in deps(stage, data=True) if not inside(path, earlier) and path not in covered
    ] == []
    assert deps(stage, data=True) or stage == "ingest"


@pytest.mark.parametrize("stage", STAGES)
def test_the_data_that_a_stage_s_code_names_is_what_it_depends_on(stage: str) -> None:
    """Both ways: nothing is read unnamed, and nothing is named that no code reads."""
    named = set(deps(stage, data=True))
    built = set().union(*(data_paths(file) for file in closure(stage)))
    read = {path for path in built if not inside(path, {f"data/{stage}", f"data/{stage}.failed"})}
    assert {path for path in read if not inside(path, named)} == set(), f"missing in stages.{stage}.deps"
    # A folder is named where the code names it, or more than one of its files.
    wide = {path for path in named - read if sum(inside(one, {path}) for one in read) < 2}
    assert wide == set(), f"no code reads the whole of these in stages.{stage}.deps"


def test_the_test_split_is_read_by_evaluate_and_later_stages_alone() -> None:
    readers = {stage for stage in STAGES for path in DAG["stages"][stage]["deps"]
               if inside("data/prepare/test", {path}) or inside(path, {"data/prepare/test"})}  # fmt: skip
    assert readers == set(STAGES) - set(BEFORE_TEST)
    for stage in BEFORE_TEST:
        for file in closure(stage) - {"pipeline/prepare.py", "pipeline/sources/learnt.py"}:  # who name splits
            named = {text for text in texts(file) if text == "test" or "prepare/test" in text}
            assert named == set(), f"{stage} must not see the test split, and {file} names it"
            assert "data/prepare" not in data_paths(file), (
                f"{file} names the folder that holds the test split"
            )
    assert "test" in texts("pipeline/prepare.py")
    assert "test" in texts("pipeline/evaluate.py")


def test_folds_are_read_by_augment_and_tune_alone_and_hold_what_is_not_the_test() -> None:
    """That no sample of the test is in them, `test_folds` and the walk of loanapp see in the data."""
    assert "data/prepare/folds" in outs("prepare")
    readers = {stage for stage in STAGES for path in DAG["stages"][stage]["deps"]
               if inside("data/prepare/folds", {path}) or inside(path, {"data/prepare/folds"})}  # fmt: skip
    assert readers == {"augment", "tune"}
    for file in ("pipeline/folds.py", "pipeline/tuning/folded.py", "pipeline/tuning/nested.py"):
        assert not {text for text in texts(file) if text == "test" or "prepare/test" in text}
        assert data_paths(file) <= {"data/prepare/folds"}


def test_the_user_s_own_files_are_read_by_ingest_and_export_alone() -> None:
    """`export` takes the golden requests' raw bytes from them."""
    readers = {
        stage for stage in STAGES if any(path.startswith("${") for path in DAG["stages"][stage]["deps"])
    }
    assert readers <= {"ingest", "export"}
    openers = {stage for stage in STAGES if called("open_source", f"pipeline/{stage}.py")}
    assert openers == {"ingest"}


def test_raw_and_validated_data_reach_no_stage_that_fits() -> None:
    """They hold the test samples too; `prepare` takes them apart."""
    for stage in ("augment", "tune", "train"):
        assert not [path for path in deps(stage, data=True) if inside(path, {"data/ingest", "data/validate"})]


# Metrics and plots


def plotted() -> Iterator[tuple[str, set[str]]]:
    """Each file that a plot names, with the columns that it takes from it."""
    for entry in DAG["plots"]:
        if isinstance(entry, str):
            yield entry, set()
            continue
        for plot in entry.values():
            for file, columns in plot["y"].items():
                yield file, {plot["x"], *([columns] if isinstance(columns, str) else columns)}


@pytest.mark.parametrize(("file", "columns"), plotted())
def test_a_plot_shows_a_file_and_columns_that_a_stage_writes(file: str, columns: set[str]) -> None:
    stage = PurePosixPath(file).parts[1]
    assert inside(file, outs(stage))
    assert {PurePosixPath(file).name, *columns} <= texts(*closure(stage))


def test_there_are_metrics_and_plots() -> None:
    assert list(entries("evaluate", "metrics")) == ["data/evaluate/metrics.json"]
    assert len(list(plotted())) >= 9
