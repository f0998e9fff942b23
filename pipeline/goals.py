"""By what a model may be promoted: the metrics of each task, of which the first is what 'auto' takes."""

from __future__ import annotations

from pipeline.core.params import PARAMS, UserError, parse, read
from serving.inputs.spec import DataSpec, Task

GOALS: dict[Task, tuple[str, ...]] = {
    "classification": (
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "roc_auc",
        "average_precision",
        "log_loss",
    ),
    "regression": ("rmse", "mae", "r2", "mse"),
    "anomaly": ("roc_auc", "average_precision"),
    "generation": ("frechet", "coverage"),
}
FORECASTS = ("mase",)  # of a regression that forecasts, beside the others


def goals(spec: DataSpec) -> tuple[str, ...]:
    """The metrics that a model of these data may be promoted by."""
    forecasts = spec.series is not None and spec.series.horizon > 0
    return GOALS[spec.task] + (FORECASTS if forecasts else ())


def goal(metric: str, spec: DataSpec) -> str:
    """The metric that `promote.metric` means for these data.

    Raises:
        UserError: it is no metric of their task.
    """
    if metric == "auto":
        return goals(spec)[0]
    if metric not in goals(spec):
        raise UserError(
            f"promote.metric: '{metric}' is no metric of {spec.task}; expected auto, {', '.join(goals(spec))}"
        )
    return metric


def check_goal(spec: DataSpec) -> None:
    """Refuse a `promote.metric` that will not do, before there is anything to promote.

    It changes no output of the stage that asks, so no stage but `promote` names it in `dvc.yaml`: a stage that is
    not run again need not ask again.

    Raises:
        UserError: it is no metric of the task.
    """
    if not PARAMS.exists():
        return  # a job that no project asks for
    given = parse(read(PARAMS)).get("promote") or {}
    goal(given.get("metric", "auto"), spec)
