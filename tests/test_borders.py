"""The packages keep to their borders: who imports what, read from the code itself and from what a process loads."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.code import FIRST_PARTY, ROOT, called, closure, imported, importers, sources, tree

HEAVY = ("torch", "pandas", "sklearn", "mlflow", "optuna", "pytorch_lightning", "matplotlib")
# Suspecting wrong labels takes a trained model, and a parameter that is off; only then its functions import one.
ON_DEMAND = {"pipeline/facts/labels.py"}


@pytest.mark.parametrize("stage", ["ingest", "validate", "prepare"])
def test_a_stage_that_moves_tables_loads_no_heavy_library(stage: str) -> None:
    files = closure(stage) - ON_DEMAND
    static = {name.partition(".")[0] for file in files for name in imported(file)}
    assert static & set(HEAVY) == set(), "not even inside a function"
    assert loaded_by(f"pipeline.{stage}", *HEAVY) == set()


@pytest.mark.parametrize("module", ["certify", "promote", "summary"])
def test_what_trains_nothing_begins_without_heavy_libraries(module: str) -> None:
    assert loaded_by(f"pipeline.{module}", *HEAVY) == set()


def loaded_by(module: str, *unwanted: str) -> set[str]:
    """Which of the unwanted modules a fresh interpreter holds after an import."""
    code = f"import sys, {module}; print(*(set({unwanted!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_the_predictor_loads_neither_the_training_nor_the_tracking_side() -> None:
    unwanted = ("pytorch_lightning", "mlflow", "dvc", "torch", "pandas", "optuna", "pipeline", "models")
    assert loaded_by("serving.predictor", *unwanted) == set()
    assert loaded_by("json", "json") == {"json"}, "the check itself sees what is loaded"


def test_the_tracking_side_alone_imports_mlflow_and_only_inside_functions() -> None:
    # serving/pyfunc.py is the code of the MLflow model, which MLflow loads.
    ours = {"pipeline/mlflow_store.py", "pipeline/tracking.py"}
    assert importers("mlflow", *FIRST_PARTY) == {*ours, "serving/pyfunc.py"}
    top = [node for file in ours for node in tree(file).body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in top}
    assert not [name for name in modules if name.partition(".")[0] == "mlflow"]
    assert "pyfunc" not in {
        name.rpartition(".")[2] for file in sources(*FIRST_PARTY) for name in imported(file)
    }


def test_only_two_modules_talk_to_the_management_side() -> None:
    def manages(file: str) -> bool:
        asks = any(
            isinstance(node, ast.Attribute) and node.attr == "management_url" for node in ast.walk(tree(file))
        )
        tokens = (argument for call in called("read_token", file) for argument in call.args)
        return asks or any(
            isinstance(token, ast.Constant) and token.value == "management" for token in tokens
        )

    found = {file for file in sources(*FIRST_PARTY) if manages(file)}
    assert found == {"serving/management.py", "serving/tokens.py"}, "models; and tokens"


def test_serving_and_models_know_nothing_of_the_pipeline() -> None:
    assert importers("pipeline", "serving", "models") == set()
    assert importers("models", "serving") == {"serving/predictor.py"}, "its eager backend, inside a function"
    assert importers("serving", "models") != set()
