"""What breaks the guarantee of private training is refused before anything is computed, with its line and advice."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.params import Model
from pipeline import extras
from pipeline.augment import Augment
from pipeline.core.params import UserError, flatten
from pipeline.extras import Package
from pipeline.fitting import guarantee, privacy
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import fit
from pipeline.fitting.guarantee import RULES, breaches
from pipeline.fitting.job import refuse_breaches
from pipeline.fitting.settings import Train
from pipeline.quickcheck import fits_schema
from tests.conftest import set_params
from tests.small import blobs, table_job
from tests.wrong import GIVEN, SCHEMA, refusal, written

PRIVATE = {
    "model": {"normalisation": "layer"},
    "train": {"privacy": {"epsilon": 3.0, "delta": 1e-5, "clip": 1.0}},
    "augment": {"factor": 0},
    "tune": {"space": {"train.lr": {"low": 0.001, "high": 0.02, "log": True}}},
}
WRONG: dict[str, Any] = {
    "model.normalisation": "batch", "model.family": "gan", "augment.factor": 2, "augment.oversample": "smote",
    "train.sampling": "over", "train.class_weights": "balanced", "train.mixup": 0.2, "train.cutmix": 1.0,
    "train.l1": 0.01, "train.lr": 0, "train.batch_size": 0, "train.accumulate": 4, "train.precision": "16-mixed",
    "compute.processes": 2, "compute.compile": True, "compute.checkpoint_activations": True,
}  # fmt: skip


def given(**more: Any) -> str:
    """The repository's file, asking for privacy rightly, with values at dotted keys changed."""
    content = yaml.safe_load(GIVEN)
    for section, values in PRIVATE.items():
        content[section] |= values
    for dotted, value in more.items():
        section, key = dotted.split(".", 1)
        content[section][key] = value
    return yaml.safe_dump(content, sort_keys=False)


def test_what_is_right_is_let_through(tmp_path: Path) -> None:
    assert fits_schema(written(tmp_path, given()), SCHEMA)
    assert set(WRONG) == {rule.key for rule in RULES}
    everything = {"model": Model(), "train": Train(), "augment": Augment(), "compute": Compute()}
    defaults = flatten({name: section.model_dump() for name, section in everything.items()})
    assert {rule.key: rule.default for rule in RULES} == {rule.key: defaults[rule.key] for rule in RULES}
    assert breaches({"train": {"mixup": 0.3}, "model": {}}) == []
    assert breaches({"train": None, "model": 3}) == []
    assert (
        breaches(yaml.safe_load(given(**{"model.family": "autoencoder", "model.normalisation": "batch"})))
        == []
    )
    assert doctest.testmod(guarantee).failed == 0


@pytest.mark.parametrize("key", WRONG)
def test_each_breach_is_told_with_its_line_and_what_to_do(key: str, tmp_path: Path) -> None:
    text = given(**{key: WRONG[key]})
    told = refusal(tmp_path, text)
    assert told.count("\n") == 0
    line = int(told.partition(": ")[0].rpartition(" ")[2])
    assert text.splitlines()[line - 1].strip().startswith(key.rpartition(".")[2])
    assert f"{key}: {WRONG[key]} cannot go with train.privacy" in told
    assert not fits_schema(written(tmp_path, text), SCHEMA)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"model.normalisation": {"choices": ["layer", "batch"]}}, "model.normalisation: batch cannot go"),
        ({"train.mixup": {"low": 0.0, "high": 0.4}}, "train.mixup: 0.4 cannot go"),
        ({"train.privacy.epsilon": {"low": 1, "high": 8}}, "train.privacy.epsilon is a promise"),
    ],
)
def test_a_search_may_not_break_it_either(space: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, given(**{"tune.space": space}))
    openly = {"tune": {"space": space}, "train": {"privacy": {"epsilon": 0}}}
    assert ("promise" in said) == bool(breaches(openly))  # it is one even where none is given


def test_a_stage_refuses_what_the_check_was_not_asked_about(project: Path) -> None:
    (project / "params.yaml").write_text(given())
    model, train = Model.model_validate(PRIVATE["model"]), Train.model_validate(PRIVATE["train"])
    refuse_breaches(model, train)
    set_params(project, {"augment.factor": 1})
    with pytest.raises(UserError, match=r"params.yaml, line \d+: augment.factor: 1 cannot go"):
        refuse_breaches(model, train)


def test_nothing_is_fitted_that_promises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def job(model: dict[str, Any] | None = None, **settings: Any) -> Any:
        return table_job(tmp_path, blobs(100, 1), blobs(40, 2), settings, model or {"normalisation": "layer"})

    with pytest.raises(UserError, match=r"model.normalisation: batch cannot go"):
        fit(job({"normalisation": "batch"}, privacy={"epsilon": 1.0}), [])
    with pytest.raises(
        UserError, match=r"delta is 0.01 and there are 100 training samples; expected less than 0.01"
    ):
        fit(job(privacy={"epsilon": 1.0, "delta": 0.01}), [])
    with pytest.raises(UserError, match=r"epsilon: 1e-07 is too little for \d+ steps"):
        fit(job(privacy={"epsilon": 1e-7, "delta": 1e-5}), [])
    monkeypatch.setattr(privacy, "OPACUS", Package("no_such_module", "opacus", "privacy"))
    with pytest.raises(UserError, match=r"needs the package 'opacus'.*run: pip install .*\[privacy\]"):
        fit(job(privacy={"epsilon": 1.0}), [])


def test_opacus_is_installed_where_privacy_is_asked_for() -> None:
    asked = {"data": {"source": "mnist"}, "train": {"privacy": {"epsilon": 2}}}
    assert extras.needed(asked) == {extras.OPACUS: "train.privacy"}
    for epsilon in (0, 0.0, "much", None):
        assert extras.needed({**asked, "train": {"privacy": {"epsilon": epsilon}}}) == {}
