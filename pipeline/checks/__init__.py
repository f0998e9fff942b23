"""What can be wrong with a data set: pure checks of its measured facts, by modality in `CHECKS`."""

from __future__ import annotations

from pipeline.checks.common import COMMON
from pipeline.checks.findings import Check
from pipeline.checks.history import HISTORY
from pipeline.checks.images import IMAGES
from pipeline.checks.series import SERIES_CHECKS
from pipeline.checks.tables import TABLES
from pipeline.checks.text import TEXTS
from serving.inputs.spec import Modality

CHECKS: dict[Modality, tuple[Check, ...]] = {
    "image": (*COMMON, *IMAGES), "table": (*COMMON, *TABLES), "series": (*COMMON, *SERIES_CHECKS),
    "text": (*COMMON, *TEXTS),
}  # fmt: skip
__all__ = ["CHECKS", "HISTORY"]
