"""The `compute` section: where the work runs. It changes no result beyond rounding and invalidates no stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.params import Section


class Compute(Section):
    """Device, threads, processes and machines."""

    engine: Literal["local", "ray"] = Field(
        "local",
        description="Where trials, folds and re-trainings run: processes of this machine, or a Ray cluster.",
    )
    ray_address: str = Field(
        "", description="Of the Ray cluster ('auto', or HOST:PORT); empty starts one on this machine."
    )
    workers: int = Field(
        1,
        ge=0,
        le=4096,
        description="Trials at once, each in a process of its own; 0: as many as there are cores, or as a cluster has "
        "room for.",
    )
    gpus_per_trial: float = Field(
        1.0, ge=0, le=64, description="Of the GPUs that are there; a fraction lets trials share one."
    )
    processes: int = Field(
        1, ge=1, le=4096, description="Processes that train one model together, in the stage train."
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="Of several processes: each holds the whole model, or a part of it."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile before training.")
    checkpoint_activations: bool = Field(
        False,
        description="Compute activations again in the backward pass in place of keeping them: less memory.",
    )
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
