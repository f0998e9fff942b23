"""Saves the model for `mlflow models serve` into the folder that is named."""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow

HERE = Path(__file__).parent
mlflow.pyfunc.save_model(
    sys.argv[1], python_model=str(HERE / "mlflow_app.py"), code_paths=[str(HERE / "digits.py")],
    pip_requirements=["mlflow"],
)  # fmt: skip
