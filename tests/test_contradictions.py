"""What cannot go together is refused by both checks, and before anything is fitted; of privacy see `test_privacy`."""

from __future__ import annotations

import dataclasses
import doctest
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.params import Model
from pipeline.core.params import UserError
from pipeline.fitting import contradictions as rules
from pipeline.fitting.assembly import check_together
from pipeline.fitting.compute import Compute
from pipeline.fitting.contradictions import RULES, contradictions
from pipeline.fitting.settings import Train
from pipeline.quickcheck import fits_schema
from tests.small import blobs, table_job
from tests.wrong import GIVEN, SCHEMA, refusal, written

PARTS = {"processes": 2, "strategy": "fsdp"}
WRONG: tuple[tuple[str, dict[str, Any]], ...] = (
    ("train.accumulate", {"model": {"family": "gan"}, "train": {"accumulate": 2}}),
    ("train.batch_size", {"model": {"family": "gan"}, "train": {"batch_size": 0}}),
    ("compute.checkpoint_activations", {"compute": {"compile": True, "checkpoint_activations": True}}),
    ("compute.compile", {"compute": {"compile": True, "processes": 2}}),
    ("train.batch_size", {"train": {"batch_size": 3}, "compute": {"processes": 4}}),
    ("model.family", {"model": {"family": "gan"}, "compute": PARTS}),
    ("train.l1", {"train": {"l1": 0.1}, "compute": PARTS}),
    ("train.ema", {"train": {"ema": 0.9}, "compute": PARTS}),
    ("train.unfreeze_every", {"train": {"unfreeze_every": 1}, "compute": PARTS}),
    ("train.precision", {"train": {"precision": "16-mixed"}, "compute": PARTS}),
    ("train.precision", {"train": {"precision": "16-mixed"}, "compute": {"accelerator": "cpu"}}),
)


@pytest.mark.parametrize(("key", "changes"), WRONG)
def test_a_contradiction_is_told_with_its_line(key: str, changes: dict[str, Any], tmp_path: Path) -> None:
    content = yaml.safe_load(GIVEN)
    for section, values in changes.items():
        content[section] |= values
    text = yaml.safe_dump(content, sort_keys=False)
    told = refusal(tmp_path, text)
    assert told.count("\n") == 0
    line = int(told.partition(": ")[0].rpartition(" ")[2])
    assert text.splitlines()[line - 1].strip().startswith(key.rpartition(".")[2])
    assert not fits_schema(written(tmp_path, text), SCHEMA)
    job = table_job(tmp_path, blobs(20, 0), blobs(20, 1), changes.get("train", {}))
    model = Model.model_validate(changes.get("model", {}))
    with pytest.raises(UserError) as started:
        check_together(
            dataclasses.replace(job, model=model, compute=Compute.model_validate(changes.get("compute", {})))
        )
    assert told.endswith(str(started.value))


def test_every_rule_is_broken_by_one_of_them() -> None:
    defaults = {
        "model": Model().model_dump(),
        "train": Train().model_dump(),
        "compute": Compute().model_dump(),
    }
    assert contradictions(defaults) == contradictions({}) == contradictions({"train": None, "model": 3}) == []
    assert {rule.message for _, changes in WRONG for rule in contradictions(changes)} == {
        r.message for r in RULES
    }
    assert doctest.testmod(rules).failed == 0
