"""What tests of cross-validation share: data as `validate` leaves it, and what each fold holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import prepare
from pipeline.core.dataset import Dataset, numbered
from serving.inputs.spec import Column, DataSpec, Role
from tests.conftest import set_params
from tests.modalities import write

DTYPES: dict[Role, str] = {"group": "<i8", "split": "|u1", "time": "<f8", "begin": "<f8"}
FOLDS = prepare.OUTPUT / "folds"


def laid(
    project: Path,
    spec: DataSpec,
    rows: Any,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
    **more: np.ndarray,
) -> Dataset:
    """What `ingest` and `validate` leave, with columns named after their roles."""
    extra = tuple(Column(name=name, role=name, dtype=DTYPES[name]) for name in more)  # type: ignore[arg-type,index]
    (project / "data/validate").mkdir(parents=True, exist_ok=True)
    np.save(project / "data/validate/groups.npy", np.arange(len(rows)) if groups is None else groups)
    spec = spec.model_copy(update={"columns": spec.columns + extra})
    return write(project / "data/ingest", spec, rows, targets, **more)


def prepared(
    project: Path, number: int = 3, changes: Mapping[str, Any] | None = None, **folds: Any
) -> list[Path]:
    """Run `prepare` with so many folds; give their folders."""
    set_params(
        project,
        {"prepare.folds": {"number": number, "scheme": "auto", "inner": 0, **folds}, **(changes or {})},
    )
    prepare.run()
    return numbered(FOLDS)


def ids(folder: Path) -> list[bytes]:
    """The ids of a data set folder."""
    return [bytes(identity) for identity in Dataset(folder).column("id")]
