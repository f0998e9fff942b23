"""What a model is promoted by: known for every task, and told before anything is fitted where it will not do."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from models.params import Model
from pipeline import promote
from pipeline.cli import app
from pipeline.core.params import UserError
from pipeline.fitting.fit import Train
from pipeline.fitting.job import make_job
from pipeline.goals import FORECASTS, GOALS, check_goal, goal, goals
from pipeline.metrics import BY_TASK, LOWER_IS_BETTER, measures
from pipeline.promote import Metric, Promote
from serving.inputs.spec import DataSpec, SeriesInput, Task, Transform, write_json
from tests.conftest import ROOT, set_params
from tests.small import CPU, table_spec, write


def forecast_spec() -> DataSpec:
    series = SeriesInput(channels=("x",), horizon=1, forecasts=("x",))
    return table_spec(["number"], targets=1).model_copy(update={"modality": "series", "series": series})


@pytest.mark.parametrize("task", GOALS)
def test_every_goal_is_a_metric_of_its_task(task: Task) -> None:
    assert set(GOALS) == set(BY_TASK)
    assert set(GOALS[task]) <= BY_TASK[task].keys()
    assert {"auto", *FORECASTS}.union(*GOALS.values()) == set(get_args(Metric))


def test_forecasts_have_goals_of_their_own() -> None:
    assert goals(forecast_spec()) == (*GOALS["regression"], "mase")
    assert "mase" not in goals(table_spec(["number"], targets=1))
    known = measures(forecast_spec(), Transform(naive_error=(2.0,)))
    assert set(goals(forecast_spec())) <= known.keys()
    assert "mase" in LOWER_IS_BETTER
    error = known["mase"](np.ones((1, 2)), np.zeros((2, 1)), np.array([[1.0], [3.0]]))
    assert error.tolist() == [1.0]


def test_auto_is_the_first_metric_of_the_task() -> None:
    assert goal("auto", table_spec(["number"])) == "accuracy"
    assert goal("auto", table_spec(["number"], targets=2)) == "rmse"
    assert goal("auto", table_spec(["number"]).model_copy(update={"task": "anomaly"})) == "roc_auc"


def test_a_study_and_a_training_ask_before_they_fit(project: Path) -> None:
    set_params(project, {"promote.metric": "rmse"})
    with pytest.raises(
        UserError, match=r"promote.metric: 'rmse' is no metric of classification; expected auto, acc"
    ):
        check_goal(table_spec(["number"]))
    rows = np.zeros((4, 1), np.float32)
    write(project / "data/augment", table_spec(["number"]), rows, np.array([0, 1, 0, 1]))
    (project / "data/prepare/transform").mkdir(parents=True)
    write_json(project / "data/prepare/transform/transform.json", Transform(mean=(0.0,), std=(1.0,)))
    with pytest.raises(UserError, match=r"promote.metric: 'rmse' is no metric"):
        make_job(Model(family="fnn"), Train(), 7, CPU)
    set_params(project, {"promote.metric": "auto"})
    assert make_job(Model(family="fnn"), Train(), 7, CPU).spec.task == "classification"


def test_check_tells_as_soon_as_the_data_are_known(project: Path) -> None:
    (project / "params.schema.json").write_bytes((ROOT / "params.schema.json").read_bytes())
    set_params(project, {"promote.metric": "rmse"})
    (project / "data/ingest").mkdir(parents=True)
    write_json(project / "data/ingest/spec.json", table_spec(["number"]))
    content = yaml.safe_load((project / "params.yaml").read_text())
    for data, code in (
        ({**content["data"], "source": "table"}, 0),
        (content["data"], 1),
    ):  # other data, these data
        lock = {"stages": {"ingest": {"params": {"params.yaml": {"data": data}}}}}
        (project / "dvc.lock").write_text(yaml.safe_dump(lock))
        (project / ".fairlead").mkdir(exist_ok=True)
        told = CliRunner().invoke(app, ["check"])
        assert told.exit_code == code, told.output
    assert "promote.metric: 'rmse' is no metric of classification" in told.output


def test_a_forecast_may_be_promoted_by_its_scaled_error(project: Path) -> None:
    from pipeline.core.dataset import columns_of
    from serving.inputs.ragged import Ragged
    from serving.inputs.spec import Column

    draw = np.random.default_rng(0)
    column = Column(name="series", role="input", dtype="<f4", shape=(1,), ragged=True)
    spec = forecast_spec().model_copy(update={"columns": columns_of(column, 1), "table": None})
    steps = Ragged.of(list(draw.normal(size=(60, 3, 1)).astype(np.float32)), "<f4", (1,))
    targets = draw.normal(size=(60, 1)).astype(np.float32)
    write(project / "data/prepare/test", spec, steps, targets)
    for name in ("evaluate", "train"):
        (project / "data" / name).mkdir()
    write_json(project / "data/train/transform.json", Transform(naive_error=(1.0,)))
    np.save(project / "data/evaluate/outputs.npy", targets + np.float32(0.01))
    verdict, reason, compared = promote.judge(None, "abc", Promote(metric="mase"), 7)
    assert verdict == "promoted"
    assert "mase +" in reason
    assert compared["metric"] == "mase"
