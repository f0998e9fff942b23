"""Stage `validate`: may we use it? Checks the ingested data, groups its copies and draws what it found."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from pipeline.checks import CHECKS, Example, Facts, Finding, schema
from pipeline.core.dataset import Dataset
from pipeline.core.params import Section, UserError, section
from pipeline.core.stage import DATA, main, replacing
from pipeline.duplicates import exact_only, find_duplicates, pooled, rows_at_once
from pipeline.measures import MEASURES
from pipeline.pages import TILE, Picture, bars, histogram, render, sheet
from serving.inputs.spec import DataSpec, write_json

INPUT = DATA / "ingest"
OUTPUT = DATA / "validate"
FAILED = DATA / "validate.failed"  # the page of data that was refused; the earlier output stays
PICTURED = 20  # classes shown with pictures; every class is counted
SAMPLES = 12  # pictures of a class


class Validate(Section):
    """The `validate` section: up to a limit a finding is a warning, above it an error that stops the road."""

    min_per_class: int = Field(5, ge=1, le=1_000_000, description="Fewer samples of any class are an error.")
    warn_imbalance: float = Field(
        3.0, ge=1, description="Largest class over the smallest, in samples, above which there is a warning."
    )
    max_imbalance: float = Field(100.0, ge=1, description="The same ratio, above which there is an error.")
    max_duplicates: float = Field(
        0.2, ge=0, le=1, description="Fraction of samples that repeat an earlier one."
    )
    max_conflicts: float = Field(
        0.01, ge=0, le=1, description="Fraction of samples with an exact copy in another class."
    )
    max_near_duplicates: float = Field(
        0.3, ge=0, le=1, description="Fraction of samples that nearly repeat an earlier one."
    )
    max_near_conflicts: float = Field(
        0.02, ge=0, le=1, description="Fraction of samples with a near copy in another class."
    )
    near_similarity: float = Field(
        0.988,
        ge=0.9,
        le=0.9999,
        description="Similarity from which two images are near copies; 1 is the same picture.",
    )
    max_compared: int = Field(
        100_000, ge=0, le=1_000_000,
        description="Distinct images above which near copies are not searched (time grows with the square).",
    )  # fmt: skip
    max_candidates: int = Field(
        200_000, ge=1, le=100_000_000, description="Pairs of images compared at full size at most."
    )
    max_constant: float = Field(0.01, ge=0, le=1, description="Fraction of images of one flat colour.")
    outlier_score: float = Field(
        8.0,
        ge=3,
        description="Brightness or contrast is unusual beyond this many robust deviations from the median.",
    )
    max_outliers: float = Field(
        0.05, ge=0, le=1, description="Fraction of images of unusual brightness or contrast."
    )


class Report(BaseModel, extra="forbid", frozen=True):
    """What `report.json` holds; `counts` are the samples of each class."""

    spec: DataSpec
    samples: int
    counts: dict[str, int]
    statistics: dict[str, dict[str, float]]
    findings: tuple[Finding, ...]

    def messages(self, level: str) -> list[str]:
        """The messages of one level."""
        return [finding.message for finding in self.findings if finding.level == level]


def measure(dataset: Dataset, limits: Validate) -> Facts:
    """Measure every sample, in chunks, and look for copies."""
    spec = dataset.spec
    measures, low, high = MEASURES[spec.modality](dataset)
    if spec.modality == "image":
        found = find_duplicates(dataset, limits.near_similarity, limits.max_compared, limits.max_candidates)
    else:
        found = exact_only(np.array(dataset.column("id")), "")
    labels = dataset.targets if spec.classes else np.zeros(len(dataset), np.int64)
    return Facts(spec, labels, measures, low, high, found)


def statistics(facts: Facts) -> dict[str, dict[str, float]]:
    """Quantiles of every measure, the content's extremes, and how many groups copies leave."""
    sizes = np.unique(facts.duplicates.groups, return_counts=True)[1]
    content = {"lowest": facts.low, "highest": facts.high}
    groups = {"groups": float(len(sizes)), "largest group": float(sizes.max())}
    found = {"content": content, "copies": groups}
    for name, values in facts.measures.items():
        low, quarter, median, upper, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).round(3).tolist()
        mean, deviation = round(float(values.mean()), 3), round(float(values.std()), 3)
        found[name] = {
            "mean": mean, "deviation": deviation, "lowest": low, "lower quartile": quarter,
            "median": median, "upper quartile": upper, "highest": high,
        }  # fmt: skip
    return found


def origins(manifest: Path, rows: Iterable[int]) -> dict[int, str]:
    """Where each of the rows came from, read from `manifest.csv`; without one, the row's number."""
    wanted = sorted(set(rows))
    found = {row: f"row {row}" for row in wanted}
    if manifest.exists() and wanted:
        with manifest.open(newline="", encoding="utf-8") as lines:
            for row, line in enumerate(islice(csv.reader(lines), 1, wanted[-1] + 2)):
                if row in found:
                    found[row] = line[1]
    return found


def traced(findings: list[Finding], manifest: Path) -> tuple[Finding, ...]:
    """The findings with the origins of their examples."""
    known = origins(manifest, (row for finding in findings for one in finding.examples for row in one.rows))

    def trace(example: Example) -> Example:
        return example.model_copy(update={"origins": tuple(known[row] for row in example.rows)})

    return tuple(
        finding.model_copy(update={"examples": tuple(map(trace, finding.examples))}) for finding in findings
    )


def examine(dataset: Dataset, limits: Validate) -> tuple[Report, Facts | None]:
    """Run every check; where the schema is broken there are no facts and only its findings."""
    findings, facts = list(schema(dataset)), None
    if not findings:
        facts = measure(dataset, limits)
        checks = CHECKS[dataset.spec.modality]
        findings = [finding for check in checks for finding in check(facts, limits)]
        findings.sort(key=lambda finding: finding.level)
    report = Report(
        spec=dataset.spec,
        samples=len(facts.labels) if facts else 0,
        counts=dict(zip(dataset.spec.classes, facts.counts.tolist(), strict=False)) if facts else {},
        statistics=statistics(facts) if facts else {},
        findings=traced(findings, dataset.folder / "manifest.csv"),
    )
    return report, facts


def class_means(dataset: Dataset, labels: np.ndarray) -> np.ndarray:
    """The mean image of each of the first classes, made small: (K, C, h, w) uint8."""
    name = dataset.spec.input.name
    sums, start = np.zeros((0,)), 0
    for chunk in dataset.chunks([name], rows_at_once(dataset)):
        small = pooled(chunk[name], TILE)
        sums = sums if sums.size else np.zeros((PICTURED, *small.shape[1:]))
        part = labels[start : start + len(small)]
        for label in np.unique(part[part < PICTURED]):
            sums[label] += small[part == label].sum(axis=0, dtype=np.float64)
        start += len(small)
    counts = np.bincount(labels[labels < PICTURED], minlength=PICTURED).clip(1)
    means: np.ndarray = (sums / counts[:, None, None, None]).round().astype(np.uint8)
    return means


def gallery(dataset: Dataset, facts: Facts) -> list[tuple[str, Picture, Picture]]:
    """Name, mean image and evenly spread samples of each of the first classes that has any."""
    images, means, shown = dataset.column(dataset.spec.input.name), class_means(dataset, facts.labels), []
    for label, name in enumerate(facts.spec.classes[:PICTURED]):
        rows = np.flatnonzero(facts.labels == label)
        if len(rows):
            spread = rows[np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(int)]
            mean = sheet(means[label : label + 1], 1, f"mean of class {name}")
            shown.append((name, mean, sheet(images[spread], SAMPLES, f"samples of class {name}")))
    return shown


def figures(finding: Finding, dataset: Dataset, facts: Facts | None) -> list[Picture]:
    """The examples of a finding, pictured side by side; none where the schema is broken."""
    if facts is None or dataset.spec.image is None:
        return []
    images, classes = dataset.column(dataset.spec.input.name), facts.spec.classes
    pictures = []
    for example in finding.examples:
        names = [classes[facts.labels[row]] for row in example.rows]
        lines = [f"{origin} ({name})" for origin, name in zip(example.origins, names, strict=True)]
        caption = "\n".join([*lines, example.note] if example.note else lines)
        pictures.append(sheet(images[list(example.rows)], len(example.rows), caption))
    return pictures


def page(dataset: Dataset, limits: Validate, report: Report, facts: Facts | None) -> str:
    """The HTML page of a report."""
    return render(
        "validate.html.j2", report=report, limits=limits, fields=Validate.model_fields,
        findings=[(finding, figures(finding, dataset, facts)) for finding in report.findings],
        counts=bars({name: float(count) for name, count in report.counts.items()}),
        classes=gallery(dataset, facts) if facts and dataset.spec.image else [],
        charts={name: histogram(values) for name, values in facts.measures.items()} if facts else {},
    )  # fmt: skip


def write(folder: Path, dataset: Dataset, limits: Validate, report: Report, facts: Facts | None) -> None:
    """Write `report.json`, `index.html` and, where there are facts, `groups.npy` (N,) int64."""
    write_json(folder / "report.json", report)
    (folder / "index.html").write_text(page(dataset, limits, report, facts), encoding="utf-8")
    if facts:
        np.save(folder / "groups.npy", facts.duplicates.groups)


def run() -> None:
    """Run the stage.

    Raises:
        UserError: the data has errors; the page that shows them is in `FAILED`.
    """
    limits, dataset = section("validate", Validate), Dataset(INPUT)
    report, facts = examine(dataset, limits)
    errors, warnings = report.messages("error"), report.messages("warning")
    with replacing(FAILED if errors else OUTPUT) as folder:
        write(folder, dataset, limits, report, facts)
    if errors:
        listed = "\n  ".join(errors)
        raise UserError(
            f"the data must not be used, errors: {len(errors)}\n  {listed}\n"
            f"see {FAILED / 'index.html'}; mend the data, or change a limit in the 'validate' section"
        )
    shutil.rmtree(FAILED, ignore_errors=True)
    for warning in warnings:
        print(f"validate: warning: {warning}")
    print(f"validate: {report.samples} samples may be used; see {OUTPUT / 'index.html'}")


if __name__ == "__main__":
    main(run, "validate")
