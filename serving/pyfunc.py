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
    """Takes a `pd.DataFrame`: one column `image`, `series` or `text`, the columns of a table, or `label` and `seed`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle that was logged with the model."""
        self.predictor = Predictor(Path(context.artifacts["bundle"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer every row: columns `label` and `probabilities` (a dict), `values`, or `image`, and the version.

        Raises:
            BadInput: a row cannot be decoded.
        """
        del context, params
        answers = self.predictor.answer(self._bodies(model_input))
        for answer in answers:
            if not isinstance(answer, dict):
                raise answer
        return pd.DataFrame(answers)

    def _bodies(self, table: pd.DataFrame) -> list[bytes | dict[str, Any]]:
        """A request body a row: images as PNG or JPEG bytes or their base64 text, all else as in a JSON request."""
        modality = self.predictor.spec.modality
        if self.predictor.spec.task == "generation":
            seeds = table["seed"].tolist() if "seed" in table else [None] * len(table)
            return [
                {"label": str(label), "seed": seed} for label, seed in zip(table["label"], seeds, strict=True)
            ]
        if modality == "image":
            cells = table["image"]
            return [base64.b64decode(cell) if isinstance(cell, str) else bytes(cell) for cell in cells]
        if modality == "table":
            return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]
        return [{modality: cell.tolist() if hasattr(cell, "tolist") else cell} for cell in table[modality]]


set_model(FairleadModel())
