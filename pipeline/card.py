"""The model card that travels in the bundle, after Mitchell et al., "Model Cards for Model Reporting" (2019)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.fitting.conditions import read_by
from pipeline.metrics import BY_TASK
from serving.inputs.spec import read_json, read_spec

TAKES = {
    "image": "PNG or JPEG bytes, or JSON with `image` (base64) or `pixels`",
    "table": "a JSON object of columns, or a CSV row with or without its header line",
    "series": "JSON with `series`, a list of steps, or CSV, a line a step",
    "text": "plain UTF-8, or JSON with `text`",
}
ASKS = "JSON with `label` and, if wanted, `seed`, which gives the same image again"
ARTICLES = {"image": "an image", "table": "a row of a table", "series": "a series", "text": "a text"}
GIVES = {
    "classification": "`label`, and `probabilities` of every class",
    "regression": "`values` of every target",
    "generation": "`label`, `seed`, and `image`, a PNG in base64",
    "anomaly": "`anomaly`, `score` (above 1 is an anomaly) and the `embedding`",
}
LIMITS = {
    "classification": "It knows the classes above and no other: a sample of anything else gets one of their labels.",
    "generation": "Its images resemble those it learnt from, faults and gaps included, and show nothing real.",
    "anomaly": "It knows what it was told is normal; an anomaly that looks normal raises no alarm.",
    "regression": "Beyond the range of the training targets its values mean little.",
}


def network_of(model: dict[str, Any], modality: str) -> dict[str, Any]:
    """What a network was built from, for the card and the report: what its family reads, yes or no in words."""
    read, words = read_by(model["family"], modality), {True: "yes", False: "no"}
    return {
        name: words[value] if isinstance(value, bool) else value
        for name, value in model.items()
        if name in read
    }


def training_of(run: dict[str, Any]) -> dict[str, str]:
    """What a training took and what it promises, in words, by what is told; for the card and the report."""
    found: dict[str, str] = {}
    if privacy := run.get("privacy"):
        tuned = (
            "; what choosing among trials on the same samples tells is not counted"
            if run.get("tuned")
            else ""
        )
        found["Privacy of the training samples"] = (
            f"epsilon {privacy['epsilon']:.3f} at delta {privacy['delta']:g} for each sample (DP-SGD, gradients "
            f"clipped to {privacy['clip']:g}, noise {privacy['noise_multiplier']:.3f} times that{tuned})"
        )
    if energy := run.get("energy"):
        found["Energy of the training"] = (
            f"{1000 * energy['energy_kwh']:.3g} Wh, {1000 * energy['carbon_kg']:.2g} g of CO2 ({energy['how']})"
        )
    return found


def model_card(project: str, version: str, bundle: Path, metrics: dict[str, Any], run: dict[str, Any]) -> str:
    """The card in Markdown: what the model is, what it takes and gives, how good it is, where it came from."""
    spec = read_spec(bundle)
    model = network_of(read_json(bundle / "model.json"), spec.modality)
    headline = "\n".join(
        f"| {name} | {metrics[name]['value']:.4f} | {metrics[name]['low']:.4f} to {metrics[name]['high']:.4f} |"
        for name in BY_TASK[spec.task]
    )
    rows = "\n".join(
        f"| {name} | {entry['precision']:.3f} | {entry['recall']:.3f} | {entry['f1']:.3f} | {entry['support']} |"
        for name, entry in metrics["classes"].items()
    )
    classes = (
        f"| class | precision | recall | F1 | samples |\n|---|---|---|---|---|\n{rows}\n" if rows else ""
    )
    does = {
        "classification": f"sorts into {len(spec.classes)} classes: {', '.join(spec.classes)}",
        "regression": f"estimates {', '.join(spec.targets)}",
        "anomaly": "tells what is unlike the normal samples",
        "generation": f"makes an image of one of {len(spec.classes)} classes: {', '.join(spec.classes)}",
    }[spec.task]
    generates = spec.task == "generation"
    training = "".join(f"- **{name}**: {value}.\n" for name, value in training_of(run).items())
    takes = "a class and a seed" if generates else ARTICLES[spec.modality]
    return f"""# {project}, version {version}

- **What it does**: takes {takes} and {does}.
- **Input**: {ASKS if generates else TAKES[spec.modality]}.
- **Output**: {GIVES[spec.task]}.
- **Network**: {", ".join(f"{key} {value}" for key, value in model.items())}.
- **Data**: source `{spec.source}`; digest `{run["data"]}`.
- **MLflow run**: `{run["run_id"]}`.
{training}
## Test metrics ({metrics["samples"]} samples, bootstrap intervals)
| metric | value | interval |
|---|---|---|
{headline}

{classes}
## Limits
{LIMITS[spec.task]} Its figures hold for samples like those of the source; measure again before using it on others.
"""
