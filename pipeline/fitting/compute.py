"""The `compute` section: where the work runs. It changes no result beyond rounding and invalidates no stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.params import Section


class Compute(Section):
    """Device and threads."""

    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="'auto' takes a GPU where there is one."
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPU threads for training; 0 takes all cores, or one where inputs are too small to gain by more.",
    )
    cache_features: bool = Field(
        True,
        description="Compute what a frozen pre-trained network makes of the data once, and keep it on disk.",
    )
