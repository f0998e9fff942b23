"""The model card that travels in the bundle, after Mitchell et al., "Model Cards for Model Reporting" (2019)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.metrics import METRICS
from serving.inputs.spec import read_json, read_spec


def model_card(project: str, version: str, bundle: Path, metrics: dict[str, Any], run: dict[str, Any]) -> str:
    """The card in Markdown: what the model is, what it takes and gives, how good it is, where it came from."""
    spec, model = read_spec(bundle), read_json(bundle / "model.json")
    headline = "\n".join(
        f"| {name} | {metrics[name]['value']:.4f} | {metrics[name]['low']:.4f} to {metrics[name]['high']:.4f} |"
        for name in METRICS
    )
    classes = "\n".join(
        f"| {name} | {entry['precision']:.3f} | {entry['recall']:.3f} | {entry['f1']:.3f} | {entry['support']} |"
        for name, entry in metrics["classes"].items()
    )
    shape = " x ".join(map(str, spec.input_shape))
    return f"""# {project}, version {version}

- **What it does**: {spec.modality} {spec.task} into {len(spec.classes)} classes: {", ".join(spec.classes)}.
- **Input**: PNG or JPEG bytes, or JSON with `image` (base64) or `pixels`; decoded to {shape} uint8.
- **Output**: `label`, and `probabilities` of every class.
- **Network**: {", ".join(f"{key} {value}" for key, value in model.items())}.
- **Data**: source `{spec.source}`; digest `{run["data"]}`.
- **MLflow run**: `{run["run_id"]}`.

## Test metrics ({metrics["samples"]} samples, bootstrap intervals)
| metric | value | interval |
|---|---|---|
{headline}

| class | precision | recall | F1 | samples |
|---|---|---|---|---|
{classes}

## Limits
It knows the classes above and no other: an image of anything else gets one of their labels. Its figures hold for
images like those of the source; measure again before using it on others.
"""
