"""All of `params.yaml` as one typed class, its JSON schema for editors, and a check of the whole file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models.params import Model
from pipeline.augment import Augment
from pipeline.certify import Certify
from pipeline.core.params import KEYS, PARAMS, UserError, examine, read, take, where
from pipeline.core.project import Name, Seed
from pipeline.evaluate import Evaluate
from pipeline.export import Export
from pipeline.fitting.compute import Compute
from pipeline.fitting.contradictions import contradictions
from pipeline.fitting.settings import Train
from pipeline.fitting.space import check
from pipeline.ingest import Ingest
from pipeline.limits import Validate
from pipeline.mlflow_store import Tracking
from pipeline.prepare import Prepare
from pipeline.promote import Promote
from pipeline.sources import Data
from pipeline.tuning.agreement import check as agree
from pipeline.tuning.settings import Tune
from serving.settings import ServerSettings

SCHEMA = Path("params.schema.json")


class Params(BaseModel):
    """Every key of `params.yaml`; a section that is left out takes its defaults."""

    model_config = ConfigDict(extra="forbid", title="Fairlead's parameters")

    name: Name
    seed: Seed
    data: Data = Field(default_factory=lambda: Data(), description="What the raw data is.")
    model: Model = Field(default_factory=lambda: Model(), description="The network.")
    ingest: Ingest = Field(default_factory=lambda: Ingest(), description="Stage ingest: what did we get?")
    validate_: Validate = Field(
        default_factory=lambda: Validate(), alias="validate", description="Stage validate: may we use it?"
    )
    prepare: Prepare = Field(default_factory=lambda: Prepare(), description="Stage prepare: the splits.")
    augment: Augment = Field(default_factory=lambda: Augment(), description="Stage augment: more for train.")
    tune: Tune = Field(default_factory=lambda: Tune(), description="Stage tune: which hyperparameters?")
    train: Train = Field(default_factory=lambda: Train(), description="Stage train: how a model is fitted.")
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate(), description="Stage evaluate: how good?")
    export: Export = Field(default_factory=lambda: Export(), description="Stage export: the bundle.")
    certify: Certify = Field(
        default_factory=lambda: Certify(), description="Stage certify: is the server right?"
    )
    promote: Promote = Field(default_factory=lambda: Promote(), description="Stage promote: is it better?")
    compute: Compute = Field(default_factory=lambda: Compute(), description="Where the work runs.")
    tracking: Tracking = Field(default_factory=lambda: Tracking(), description="Where runs are recorded.")
    server: ServerSettings = Field(default_factory=lambda: ServerSettings(), description="TorchServe.")


def kind_of(key: str) -> type:
    """The type of one top-level key."""
    field = Params.model_fields["validate_" if key == "validate" else key]
    return {"name": Name, "seed": Seed}.get(key) or field.annotation  # type: ignore[return-value]


def schema_text() -> str:
    """The JSON schema of `params.yaml`."""
    return json.dumps(Params.model_json_schema(), indent=2) + "\n"


def check_all(path: Path = PARAMS) -> None:
    """Check the whole file, every section, and report every wrong key at once.

    Raises:
        UserError: something is wrong; one line a key.
    """
    text = read(path)
    content, problems = examine(text, path)
    sections: dict[str, Any] = {}
    for key in KEYS:
        try:
            sections[key] = take(key, kind_of(key), content, text, path)
        except UserError as error:
            problems.append(str(error))
    if {"model", "train", "tune"} <= sections.keys():
        try:
            check(sections["tune"].space, {key: sections[key] for key in ("model", "train")}, path)
        except UserError as error:
            problems.append(str(error))
    if {"model", "train", "compute"} <= sections.keys():
        problems += [
            f"{where(tuple(rule.key.split('.')), text, path)}: {rule.message}"
            for rule in contradictions(content)
        ]
    if {"tune", "prepare"} <= sections.keys():
        try:
            folds = sections["prepare"].folds
            agree(sections["tune"], folds.number, path, folds.inner)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


if __name__ == "__main__":
    SCHEMA.write_text(schema_text())
    sys.stdout.write(f"{SCHEMA} written\n")
