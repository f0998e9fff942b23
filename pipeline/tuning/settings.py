"""The section `tune` of `params.yaml`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.params import Section
from pipeline.fitting.space import Space

Objective = Literal["val_loss", "latency_ms", "parameters", "joules"]
Sampler = Literal["grid", "random", "quasi-random", "tpe", "gp", "cma-es", "nsga-ii"]
Pruner = Literal["none", "median", "halving", "hyperband", "wilcoxon"]
FIRST_FOLDS = 3  # after which Wilcoxon's test can tell anything


class Constraints(Section):
    """What a model must keep to be chosen; 0 asks for nothing."""

    latency_ms: float = Field(
        0, ge=0, description="Milliseconds of one answer, one sample at a time, on one CPU thread."
    )
    parameters: int = Field(0, ge=0, description="Weights of the network.")
    joules: float = Field(0, ge=0, description="Energy of the trial's training.")


class Tune(Section):
    """The `tune` section."""

    sampler: Sampler = Field("tpe", description="How values are chosen; 'nsga-ii' for several objectives.")
    pruner: Pruner = Field(
        "hyperband", description="How bad trials are ended early; 'wilcoxon' for cross-validation."
    )
    objectives: tuple[Objective, ...] = Field(
        ("val_loss",), min_length=1, description="What is made small; several give a Pareto front."
    )
    constraints: Constraints = Field(
        default_factory=Constraints, description="What a model must keep to be chosen."
    )
    trials: int = Field(
        12, ge=0, le=100_000, description="Trials, counted over resumed sessions; 0 trains with the given values.",
    )  # fmt: skip
    minutes: float = Field(
        2.0, gt=0, le=100_000, description="No trial begins after this many minutes, counted over sessions."
    )
    joules: float = Field(
        0, ge=0, description="No trial begins once this much energy is spent, counted over sessions; 0: any."
    )
    max_epochs: int = Field(4, ge=1, le=10_000, description="Epochs of a trial that is not pruned.")
    reduction: int = Field(
        3, ge=2, le=10, description="Of halving and hyperband: one trial in so many goes on."
    )
    nested: bool = Field(
        False,
        description="Of cross-validation: also search within each fold, for an estimate without optimism.",
    )
    top: int = Field(
        2,
        ge=1,
        le=50,
        description="The best trials, trained again on fresh seeds before one is chosen; 1 trains none.",
    )
    seeds: int = Field(
        2, ge=1, le=50, description="Fresh seeds for each of the top trials, and for the given values."
    )
    space: Space = Field(
        default_factory=dict, description="Dotted keys of 'model' and 'train' with what they may be."
    )

    @property
    def times(self) -> bool:
        """True where the time of an answer counts."""
        return bool(self.constraints.latency_ms) or "latency_ms" in self.objectives
