"""Stage `validate`: may we use it? Checks the ingested data, groups its copies and draws what it found."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.checks import CHECKS, HISTORY
from pipeline.checks.findings import Example, Facts, Finding
from pipeline.checks.folder import schema
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError, section
from pipeline.core.project import Name
from pipeline.core.stage import DATA, main, replacing
from pipeline.datapage import Report, page
from pipeline.duplicates import FINDERS
from pipeline.facts.drift import shifts
from pipeline.facts.labels import suspects
from pipeline.facts.leakage import Teller
from pipeline.facts.measures import MEASURES
from pipeline.facts.phrases import common_phrase
from pipeline.facts.profiles import History, earlier_than, gather, profile_of
from pipeline.limits import Validate
from serving.inputs.spec import write_json

INPUT = DATA / "ingest"
OUTPUT = DATA / "validate"
FAILED = DATA / "validate.failed"  # the page of data that was refused; the earlier output stays


def measure(dataset: Dataset, limits: Validate, name: str, kept: Path) -> Facts:
    """Measure every sample, in chunks, look for copies, and compare with what was accepted last (`kept`)."""
    spec, total = dataset.spec, len(dataset)
    classified = spec.task == "classification"
    labels = dataset.targets if classified else np.zeros(total, np.int64)
    targets = np.zeros((total, 0), np.float32) if classified else dataset.targets
    tell, columns, measures = Teller(labels, targets, len(spec.classes)), [], {}
    for each in MEASURES[spec.modality](dataset):
        alone = tell(each) if each.own or spec.table is None else None
        columns.append(profile_of(each, "column" if each.own else "measure", alone))
        if not each.own:
            measures[each.name] = each.values
    profile = gather(name, dataset, columns)
    earlier, found = earlier_than(profile, kept), FINDERS[spec.modality](dataset, limits)
    return Facts(
        spec, labels, targets, measures, profile, found, earlier,
        shifts=shifts(earlier, profile) if earlier else {},
        phrase=common_phrase(dataset, np.unique(found.exact)) if spec.modality == "text" else None,
        suspects=suspects(dataset, labels, found.groups) if limits.label_errors and classified else None,
    )  # fmt: skip


def statistics(facts: Facts) -> dict[str, dict[str, float]]:
    """Quantiles of every measure, and how many groups copies leave."""
    sizes = np.unique(facts.duplicates.groups, return_counts=True)[1]
    found = {"copies": {"groups": float(len(sizes)), "largest group": float(sizes.max())}}
    for name, values in facts.measures.items():
        values = values[~np.isnan(values)]
        if not len(values):
            continue
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


def examine(
    dataset: Dataset, limits: Validate, name: str = "", kept: Path = OUTPUT / "profile.json"
) -> tuple[Report, Facts | None]:
    """Run every check; where the schema is broken there are no facts and only its findings."""
    findings, facts = list(schema(dataset)), None
    if not findings:
        facts = measure(dataset, limits, name, kept)
        checks = CHECKS[dataset.spec.modality] + (HISTORY if facts.earlier else ())
        findings = [finding for check in checks for finding in check(facts, limits)]
        findings.sort(key=lambda finding: finding.level)
    report = Report(
        spec=dataset.spec,
        samples=len(facts.labels) if facts else 0,
        counts=dict(zip(dataset.spec.classes, facts.counts.tolist(), strict=False)) if facts else {},
        statistics=statistics(facts) if facts else {},
        compared=facts.earlier.samples if facts and facts.earlier else None,
        findings=traced(findings, dataset.folder / "manifest.csv"),
    )
    return report, facts


def write(folder: Path, dataset: Dataset, limits: Validate, report: Report, facts: Facts | None) -> None:
    """Write `report.json`, `index.html` and, where there are facts, `profile.json` and `groups.npy` (N,) int64."""
    write_json(folder / "report.json", report)
    (folder / "index.html").write_text(page(dataset, limits, report, facts), encoding="utf-8")
    if facts:
        write_json(folder / "profile.json", History(accepted=facts.profile, earlier=facts.earlier))
        np.save(folder / "groups.npy", facts.duplicates.groups)


def run() -> None:
    """Run the stage.

    Raises:
        UserError: the data has errors; the page that shows them is in `FAILED`.
    """
    limits, dataset = section("validate", Validate), Dataset(INPUT)
    report, facts = examine(dataset, limits, section("name", Name))
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
