"""The `train` section, and the job of fitting one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from models.optimiser import Optimiser
from models.params import Model
from pipeline.fitting.augmentation import Augmentation
from pipeline.fitting.batches import Sampling
from pipeline.fitting.compute import Compute
from serving.inputs.spec import DataSpec, Transform


class Privacy(BaseModel, extra="forbid", frozen=True):
    """Differentially private training; epsilon 0 trains without."""

    epsilon: float = Field(
        0, ge=0, le=1000, description="Privacy budget; smaller is more private; 0 is none at all."
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="Chance that the guarantee fails; below 1 / samples.")
    clip: float = Field(1.0, gt=0, le=1000, description="Largest norm of one sample's gradient.")


class Train(Optimiser, extra="forbid", frozen=True):
    """The `train` section: how a model is fitted."""

    max_epochs: int = Field(14, ge=1, le=10_000, description="Epochs at most.")
    batch_size: Literal[0] | Annotated[int, Field(ge=2, le=65_536)] = Field(
        128,
        description="Samples in a batch, of all processes together, 2 or more; 0: the largest that fits.",
    )

    accumulate: int = Field(
        1, ge=1, le=4096, description="Batches whose gradients are added up before a step is taken."
    )
    privacy: Privacy = Field(
        default_factory=lambda: Privacy(),
        description="Differential privacy of the training samples (DP-SGD).",
    )
    patience: int = Field(
        8, ge=0, description="Epochs without a better validation loss before stopping; 0 never stops early."
    )
    sampling: Sampling = Field(
        "none",
        description="Classes of unequal size: 'over' repeats samples of small ones, 'under' leaves out some of large "
        "ones, other ones each epoch.",
    )
    doctor: bool = Field(
        True, description="Look at gradients and activations now and then, and say what is wrong with them."
    )
    gradient_clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 does not clip.")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="'auto': bf16-mixed on a GPU that has it, 32-true elsewhere."
    )
    augmentation: Augmentation = Field(
        default_factory=lambda: Augmentation(), description="Random transforms in the training loop."
    )


@dataclass(frozen=True)
class Job:
    """All that fitting one model needs."""

    model: Model
    train: Train
    spec: DataSpec
    transform: Transform
    train_folder: Path
    val_folder: Path
    seed: int
    compute: Compute
