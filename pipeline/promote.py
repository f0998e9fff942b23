"""Stage `promote`: is it better than what serves now? Writes the receipt and moves the alias `champion`."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline import generation, metrics, registry, tracking
from pipeline.compare import Verdict, as_tags, baseline, decide, difference
from pipeline.core.dataset import Dataset
from pipeline.core.params import Section, UserError, section
from pipeline.core.project import Name, Seed
from pipeline.core.resampling import Difference
from pipeline.core.stage import DATA, LOCK, main, replacing
from pipeline.forecasting import naive
from pipeline.goals import goal
from pipeline.report import write_report
from serving.inputs.spec import Transform, read_json, read_spec, write_json
from serving.inputs.text import TOKENIZER
from serving.predictor import Predictor

TRAIN = DATA / "prepare" / "train"
TEST = DATA / "prepare" / "test"
MODEL = DATA / "train"
EVALUATE = DATA / "evaluate"
EXPORT = DATA / "export"
CERTIFY = DATA / "certify"
OUTPUT = DATA / "promote"


Metric = Literal[
    "auto",
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "average_precision",
    "log_loss",
    "rmse",
    "mae",
    "r2",
    "frechet",
    "coverage",
    "mse",
    "mase",
]


class Promote(Section):
    """The `promote` section."""

    metric: Metric = Field(
        "auto",
        description="The metric that is compared, one of the task's: 'auto' is accuracy of a classification, rmse of "
        "a regression, roc_auc of anomalies; 'mase' is for forecasts.",
    )
    margin: float = Field(
        0.005,
        ge=0,
        lt=1,
        description="A candidate may be worse by so much at most; 0 asks for surely better.",
    )
    resamples: int = Field(2000, ge=100, le=100_000, description="Paired bootstrap resamples.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the interval of the difference.")


def against_champion(
    champion: registry.Champion,
    known: Mapping[str, metrics.Metric],
    labels: np.ndarray,
    mine: np.ndarray,
    settings: Promote,
    weights: metrics.Resamples,
) -> tuple[Verdict, str, Difference | None]:
    """Compare with the champion's answers to the same test samples."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle = registry.download_bundle(champion, Path(scratch))
        theirs, own = read_spec(bundle), read_spec(EXPORT / "bundle")
        if theirs.outputs != own.outputs or theirs.takes != own.takes:
            return (
                "inconclusive",
                f"version {champion.number} takes other inputs or classes, so the two cannot be compared on this "
                f"test; choose another 'name', or move the alias 'champion' yourself",
                None,
            )
        predictor = Predictor(bundle)
        if own.modality == "text" and not _same_tokens(bundle):
            return (
                "inconclusive",
                f"version {champion.number} splits texts otherwise, so compare them yourself",
                None,
            )
        parts = [predictor.outputs(rows) for rows in generation.requests_in(Dataset(TEST), bundle)]
    other = generation.seen(Dataset(TEST), TRAIN, np.concatenate(parts))
    found = difference(known, settings.metric, weights, labels, mine, other, settings.confidence)
    return *decide(found, settings.margin, f"version {champion.number}", settings.metric), found


def _same_tokens(bundle: Path) -> bool:
    """True where another bundle's tokenizer is ours, so that it understands the prepared test."""
    return (bundle / TOKENIZER).read_bytes() == (EXPORT / "bundle" / TOKENIZER).read_bytes()


def judge(
    champion: registry.Champion | None, model_version: str, settings: Promote, seed: int
) -> tuple[Verdict, str, dict[str, Any]]:
    """The verdict on the candidate, its reason, and what was compared."""
    test = Dataset(TEST)
    settings = settings.model_copy(update={"metric": goal(settings.metric, test.spec)})
    transform = Transform.model_validate_json((MODEL / "transform.json").read_text())
    known = metrics.measures(test.spec, transform)
    labels = test.targets
    outputs = np.load(EVALUATE / "outputs.npy", allow_pickle=False)
    mine = generation.seen(test, TRAIN, outputs)
    weights = metrics.Resamples(settings.resamples, len(labels), seed, metrics.block_of(test.spec))
    forecast = test.spec.series is not None and test.spec.series.horizon > 0
    if test.spec.task == "generation":
        trivial = generation.seen(test, TRAIN, generation.means(test, TRAIN))
    else:
        trivial = naive(test) if forecast else baseline(test.spec.task, labels, mine.shape[1])
    floor = difference(known, settings.metric, weights, labels, mine, trivial, settings.confidence)
    compared: dict[str, Any] = {"metric": settings.metric, "over_trivial_baseline": floor.plain()}
    verdict, reason = decide(floor, 0, "the trivial baseline", settings.metric)
    if champion is None or verdict != "promoted":
        return verdict, reason, compared
    if champion.model_version == model_version:
        return "unchanged", f"version {champion.number}, which serves now, is this very model", compared
    verdict, reason, found = against_champion(champion, known, labels, mine, settings, weights)
    compared["over_champion"] = found.plain() if found else None
    return verdict, reason, compared


def make_receipt(
    project: str, settings: Promote, seed: int
) -> tuple[dict[str, Any], registry.Champion | None]:
    """Everything that the decision rests on."""
    bundle = read_json(EXPORT / "bundle" / "bundle.json")
    champion = registry.champion(project)
    verdict, reason, compared = judge(champion, bundle["version"], settings, seed)
    certified = read_json(CERTIFY / "report.json")
    if certified["version"] != bundle["version"]:
        raise UserError(
            f"certify judged version {certified['version']}, the bundle is {bundle['version']}: run 'dvc repro'"
        )
    archive = (EXPORT / f"{project}.mar").read_bytes()
    receipt = {
        "name": project, "verdict": verdict, "reason": reason,
        "model_version": bundle["version"], "run_id": bundle["run_id"],
        "compared": compared, "margin": settings.margin,
        "champion_before": champion.number if champion else None,
        "archive_sha256": hashlib.sha256(archive).hexdigest(), "data": bundle["data"],
        "certified": certified, "lineage": tracking.lineage(),
        "decided": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return receipt, champion


def run() -> None:
    """Run the stage."""
    project = section("name", Name)
    settings = section("promote", Promote)
    receipt, champion = make_receipt(project, settings, section("seed", Seed))
    mlrun = tracking.attach(receipt["run_id"])
    with replacing(OUTPUT) as folder:
        if receipt["verdict"] == "unchanged":
            assert champion is not None
            receipt["registry_version"] = champion.number
        else:
            source = read_json(EXPORT / "model.json")["mlflow_model"]
            receipt["registry_version"] = registry.register(project, source, mlrun, as_tags(receipt))
        if receipt["verdict"] == "promoted":
            registry.crown(project, receipt["registry_version"])
        write_json(folder / "receipt.json", receipt)
        write_report(folder / "report.html", receipt)
        mlrun.files(folder / "receipt.json", "promote")
        if LOCK.exists():
            mlrun.files(LOCK, "promote")  # DVC waits for this stage, so no one writes it now
        mlrun.files(folder / "report.html", "promote")
    mlrun.metrics(
        {f"serving_{name}_ms": value for name, value in receipt["certified"]["latency_ms"]["lone"].items()}
    )
    mlrun.tags({"verdict": receipt["verdict"], "registry_version": str(receipt["registry_version"])})
    print(f"promote: {receipt['verdict']}: {receipt['reason']}")


if __name__ == "__main__":
    main(run, "promote")
