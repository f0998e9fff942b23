"""The keys of `params.yaml` that belong to no stage: the model's name and the seed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z][a-z0-9_-]{0,62}$",
        description="Name of the registered model and of its endpoint: lower case, digits, '-' and '_'.",
    ),
]
Seed = Annotated[int, Field(ge=0, lt=2**31, description="Seed of everything random.")]
