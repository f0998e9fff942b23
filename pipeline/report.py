"""The report of one model: a page that needs no server, with its pictures inside."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from pipeline.card import network_of, training_of
from pipeline.core.stage import DATA
from pipeline.metrics import BY_TASK
from pipeline.pages import Picture, render
from serving.inputs.spec import read_json, read_spec

PLOTS = DATA / "evaluate" / "plots"
SAMPLES = "Training samples, and their transformed copies where there are any"
USUAL, WIDE = 460, 940  # pixels on the page
PICTURES = {
    "Confusion matrix": PLOTS / "confusion.png",
    "The worst answers": DATA / "evaluate" / "plots" / "mistakes.png",
    "Attention": PLOTS / "attention.png",
    "Learning curves": PLOTS / "learning.png",
    "Scores": PLOTS / "scores.png",
    "Generated images, a row a class": PLOTS / "generated.png",
    "Forecasts": PLOTS / "forecasts.png",
    "Residuals": PLOTS / "residuals.png",
    "Reliability": PLOTS / "reliability.png",
    "ROC": PLOTS / "roc.png",
    "Precision and recall": PLOTS / "pr.png",
    SAMPLES: DATA / "augment" / "samples.png",
}

CAPTIONS = {"generation": {"The worst answers": "Most like a training image, each beside it"}}


def picture(path: Path, caption: str, width: int) -> Picture:
    """A PNG file as a picture inside the page."""
    uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return Picture(uri, width, caption)


def write_report(path: Path, receipt: dict[str, Any]) -> None:
    """Render the page from the receipt and the outputs of the stages before."""
    metrics, spec = read_json(DATA / "evaluate" / "metrics.json"), read_spec(DATA / "train")
    trained = read_json(DATA / "train" / "run.json")
    called = CAPTIONS.get(spec.task, {})
    pictures = [
        picture(file, called.get(caption, caption), WIDE if caption == SAMPLES else USUAL)
        for caption, file in PICTURES.items()
        if file.exists()
    ]
    page = render(
        "report.html.j2",
        receipt=receipt,
        headline={name: metrics[name] for name in BY_TASK[spec.task]},
        classes=metrics["classes"],
        samples=metrics["samples"],
        model=network_of(read_json(DATA / "train" / "model.json"), spec.modality),
        tuned=trained["tuned"],
        families=trained.get("families", {}),
        finals=trained.get("finals", {}),
        nested=trained.get("nested", {}),
        training=training_of(trained),
        pictures=pictures,
    )
    path.write_text(page)
