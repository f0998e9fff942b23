"""The MLflow model, logged as code: `mlflow.pyfunc.load_model(uri).predict(table)` answers as the server does."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from serving.predictor import Predictor


class FairleadModel(PythonModel):
    """Takes a table with one column `image`: PNG or JPEG bytes, or their base64 text."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle that was logged with the model."""
        self.predictor = Predictor(Path(context.artifacts["bundle"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer every row: columns `label`, `probabilities` (a dict) and `model_version`.

        Raises:
            BadInput: a row cannot be decoded.
        """
        del context, params
        bodies = [
            base64.b64decode(cell) if isinstance(cell, str) else bytes(cell) for cell in model_input["image"]
        ]
        answers = self.predictor.answer(bodies)
        for answer in answers:
            if not isinstance(answer, dict):
                raise answer
        return pd.DataFrame(answers)


set_model(FairleadModel())
