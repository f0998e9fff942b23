"""TorchServe as its documentation shows it: its base handler, with what its image classifier does around the model.

That classifier itself needs torchvision. Its base handler loads TorchScript; nothing else is set.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler


class DigitsHandler(BaseHandler):
    """Pictures in, probabilities by class out."""

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """Requests as one tensor (N, 1, 28, 28)."""
        images = []
        for row in data:
            image = Image.open(io.BytesIO(row.get("data") or row.get("body"))).convert("L")
            images.append(torch.from_numpy(np.array(image))[None])
        return torch.stack(images).to(self.device)

    def postprocess(self, data: torch.Tensor) -> list[dict[str, float]]:
        """Probabilities by class, the likeliest first."""
        shares, classes = torch.topk(data, 10, dim=1)
        return [
            dict(zip(map(str, each), row, strict=True))
            for each, row in zip(classes.tolist(), shares.tolist(), strict=True)
        ]
