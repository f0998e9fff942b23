"""The page of `validate`: findings with their examples, what the samples look like, every column in small."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from pipeline.cells import cell, plain
from pipeline.checks.findings import Facts, Finding
from pipeline.core.dataset import Dataset
from pipeline.core.params import flatten
from pipeline.facts.profiles import ColumnProfile
from pipeline.gallery import Shown, examples, gallery
from pipeline.limits import Levels, Validate
from pipeline.pages import Bar, bars, histogram, render
from serving.inputs.spec import DataSpec, TableField

CHARTED = {
    "image": ("brightness", "contrast"), "series": ("length",), "text": ("characters", "words"),
    "table": ("missing cells",),
}  # fmt: skip
BINS = 24  # of a small histogram
EXAMPLES = 6  # of a finding; the report holds more
TOP = 3  # categories named in the table of columns


class Report(BaseModel, extra="forbid", frozen=True):
    """What `report.json` holds; `counts` are the samples of each class, `compared` those of the data before."""

    spec: DataSpec
    samples: int
    counts: dict[str, int]
    statistics: dict[str, dict[str, float]]
    compared: int | None = None
    findings: tuple[Finding, ...]

    def messages(self, level: str) -> list[str]:
        """The messages of one level."""
        return [finding.message for finding in self.findings if finding.level == level]


@dataclass(frozen=True)
class Row:
    """A column in the table of columns, in words, with a small histogram."""

    name: str
    kind: str
    missing: str
    distinct: int
    values: str
    chart: list[Bar]
    alone: str
    shift: str


def chart_of(column: ColumnProfile) -> list[Bar]:
    """A small histogram: the most frequent categories, or numbers without the outermost 0.5 % at each end."""
    if column.kind == "category":
        top = sorted(column.counts.items(), key=lambda item: -item[1])
        return bars({name: float(count) for name, count in top[:BINS]})
    if not column.quantiles:
        return []
    share = np.array(column.quantiles)
    return histogram(share[1:-1] if column.distinct > BINS else share, min(BINS, max(column.distinct, 1)))


def words_of(column: ColumnProfile) -> str:
    """What a column holds: its extremes and its median, or its most frequent categories."""
    if column.kind == "category":
        top = sorted(column.counts.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} {count / max(column.rows, 1):.0%}" for name, count in top[:TOP])
        return named + (f" and {len(top) - TOP} more" if len(top) > TOP else "")
    if not column.quantiles:
        return "nothing"
    if column.kind == "boolean":
        return f"yes {column.mean or 0:.1%}"
    field = TableField(name=column.name, kind=column.kind)
    middle = column.quantiles[len(column.quantiles) // 2]
    shown = [cell(field, value) for value in (column.low, middle, column.high)]
    said = f"{shown[0]} to {shown[2]}, median {shown[1]}"
    return said if column.kind == "date" else f"{said}, mean {plain(column.mean)} ± {plain(column.deviation)}"


def table_rows(facts: Facts) -> list[Row]:
    """Every column, measure and target."""
    found = []
    for column in facts.profile.columns:
        shift = facts.shifts.get(column.name)
        found.append(
            Row(
                name=column.name, kind=column.kind if column.role == "column" else f"{column.role}, {column.kind}",
                missing=f"{column.missing_share:.1%}" if column.missing else "", distinct=column.distinct,
                values=words_of(column), chart=chart_of(column),
                alone="" if column.alone is None else f"{column.alone:.2f}",
                shift="" if shift is None else f"{shift.effect:.2f}",
            )
        )  # fmt: skip
    return found


def some_of(names: Iterable[str], most: int = 3) -> str:
    """Names with commas between, the first of them if they are many.

    >>> some_of("abcde")
    'a, b, c and 2 more'
    """
    all_ = list(names)
    return ", ".join(all_[:most]) + (f" and {len(all_) - most} more" if len(all_) > most else "")


def figures(finding: Finding, dataset: Dataset, facts: Facts | None) -> list[Shown]:
    """The examples of a finding, shown; none where the schema is broken."""
    if facts is None:
        return []
    classes, found = facts.spec.classes, []
    shown = finding.examples if dataset.spec.modality == "image" else finding.examples[:EXAMPLES]
    for example in shown:
        said = []
        for row, origin in zip(example.rows, example.origins, strict=True):
            learnt = classes[facts.labels[row]] if classes else some_of(map(plain, facts.targets[row]))
            said.append(f"{origin} ({learnt})")
        found += list(examples(example.rows, said, example.note, dataset))
    return found


def limit_rows(limits: Validate) -> list[tuple[str, str, Any]]:
    """Name, meaning and value of every limit."""
    meant = {name: field.description or "" for name, field in Validate.model_fields.items()}
    meant |= {f"levels.{name}": field.description or "" for name, field in Levels.model_fields.items()}
    values = flatten(limits.model_dump()).items()
    return [(name, meant[name], str(v).lower() if isinstance(v, bool) else v) for name, v in values]


def tiles(report: Report, facts: Facts) -> dict[str, str]:
    """The few numbers that stand first."""
    spec = report.spec
    found = {"samples": f"{report.samples:,}"}
    found |= {"classes": f"{len(spec.classes)}"} if spec.classes else {"targets": some_of(spec.targets)}
    if spec.table is not None:
        found["columns"] = str(len(spec.table.fields))
    elif spec.series is not None:
        found["channels"] = str(len(spec.series.channels))
    elif spec.image is not None:
        found["shape of a sample"] = " x ".join(map(str, spec.input_shape))
    for name, unit in (("length", "steps"), ("words", "words")):
        if name in facts.measures:
            found[f"median {unit}"] = f"{np.median(facts.measures[name]):.0f}"
    copies = report.statistics["copies"]
    found["distinct, copies grouped"] = f"{copies['groups']:,.0f}"
    if copies["largest group"] > 1:
        found["most copies of one sample"] = f"{copies['largest group']:,.0f}"
    return found


def page(dataset: Dataset, limits: Validate, report: Report, facts: Facts | None) -> str:
    """The HTML page of a report."""
    measures = {name: facts.measures[name] for name in CHARTED[dataset.spec.modality]} if facts else {}
    named = list(enumerate(report.spec.targets))[
        :: (report.spec.series.horizon or 1) if report.spec.series else 1
    ]
    targets = {name: facts.targets[:, at] for at, name in named} if facts else {}
    return render(
        "validate.html.j2", report=report, limits=limit_rows(limits), compared=report.compared,
        tiles=tiles(report, facts) if facts else {},
        findings=[(finding, figures(finding, dataset, facts)) for finding in report.findings],
        counts=bars({name: float(count) for name, count in report.counts.items()}),
        targets={name: histogram(values) for name, values in targets.items()},
        parts=list(gallery(dataset, facts)) if facts else [],
        charts={name: histogram(values) for name, values in measures.items() if np.ptp(values)},
        columns=table_rows(facts) if facts else [],
    )  # fmt: skip
