"""The model that `mlflow models serve` runs, logged as code; a table with a column of base64 goes in."""

from __future__ import annotations

import base64
from typing import Any

import mlflow
from digits import Digits, decode


class Model(mlflow.pyfunc.PythonModel):
    """The model behind MLflow's two hooks."""

    def load_context(self, context: Any) -> None:
        """Load the model into a worker."""
        del context
        self.digits = Digits()

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        """Answer every row."""
        del context, params
        return self.digits.answer([decode(base64.b64decode(cell)) for cell in model_input["image"]])


mlflow.models.set_model(Model())
