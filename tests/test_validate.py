"""Stage `validate`: what it writes, what it refuses, and what its page shows."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import validate
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.datapage import page
from pipeline.facts import measures
from pipeline.limits import Validate
from pipeline.validate import Report, examine
from serving.inputs.spec import Column, TableField, read_json, read_spec, write_json
from tests.validation import (
    FIELDS,
    SIDE,
    brighter,
    clean_images,
    clean_series,
    clean_table,
    clean_texts,
    copied,
    drawings,
    fainter,
    image_data,
    labels_of,
    series_data,
    table_data,
    text_data,
)

SCHEMA: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: (folder / "label.npy").unlink(), "column 'label' cannot be read"),
    "type": (lambda folder: np.save(folder / "image.npy", drawings(40) / 255), "expected |u1 (1, 24, 24)"),
    "rows": (lambda folder: np.save(folder / "label.npy", np.zeros(39, np.int64)), "differ in length"),
    "class": (
        lambda folder: np.save(folder / "label.npy", np.full(40, 2)),
        "40 labels are outside the 2 classes",
    ),
}


@pytest.mark.parametrize("fault", SCHEMA)
def test_a_folder_that_is_not_as_its_spec_says_is_an_error(tmp_path: Path, fault: str) -> None:
    data = image_data(tmp_path, *clean_images())
    damage, message = SCHEMA[fault]
    damage(tmp_path)
    report, facts = examine(data, Validate())
    assert facts is None
    assert [finding.level for finding in report.findings] == ["error"]
    assert message in report.findings[0].message


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("name: test\n")
    return tmp_path


def test_groups_report_and_page_are_the_same_each_time_and_in_chunks_of_any_size(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = clean_images()
    copied(images, labels)
    images[9] = fainter(images[5])
    images[2] = brighter(images[5])
    labels[[2, 5, 7, 9]] = 1
    image_data(validate.INPUT, images, labels)
    validate.run()
    first = {path.name: path.read_bytes() for path in validate.OUTPUT.iterdir()}
    assert first.keys() == {"report.json", "profile.json", "index.html", "groups.npy"}
    groups = np.load(validate.OUTPUT / "groups.npy")
    assert (groups.dtype, groups.shape) == (np.int64, (40,))
    assert groups[[2, 5, 7, 9]].tolist() == [2, 2, 2, 2]
    assert len(np.unique(groups)) == 37
    report = Report.model_validate(read_json(validate.OUTPUT / "report.json"))
    assert report.counts == {"a": 19, "b": 21}
    assert report.statistics["copies"] == {"groups": 37, "largest group": 4}
    assert report.statistics["brightness"]["mean"] == pytest.approx(images.mean(), abs=0.01)
    monkeypatch.setattr(measures, "VALUES", 7 * SIDE**2)  # seven rows at a time
    validate.run()
    assert first == {path.name: path.read_bytes() for path in validate.OUTPUT.iterdir()}


def test_errors_keep_the_earlier_output_and_a_later_pass_removes_their_page(project: Path) -> None:
    images, labels = clean_images()
    image_data(validate.INPUT, images, labels)
    validate.run()
    before = {path.name: path.read_bytes() for path in validate.OUTPUT.iterdir()}
    faulty = images.copy()
    faulty[:30] = 0
    image_data(validate.INPUT, faulty, labels)
    with pytest.raises(UserError, match=r"(?s)exact copies.*flat colour.*validate\.failed/index\.html"):
        validate.run()
    assert before == {path.name: path.read_bytes() for path in validate.OUTPUT.iterdir()}
    assert "are one flat colour" in (validate.FAILED / "index.html").read_text()
    image_data(validate.INPUT, images, labels)
    validate.run()
    assert not validate.FAILED.exists()


def test_a_broken_schema_has_a_page_too(project: Path) -> None:
    image_data(validate.INPUT, *clean_images())
    (validate.INPUT / "image.npy").unlink()
    with pytest.raises(UserError, match="column 'image' cannot be read"):
        validate.run()
    assert "column &#39;image&#39; cannot be read" in (validate.FAILED / "index.html").read_text()


def shown(page: str) -> list[np.ndarray]:
    """The pictures of a page, grey (H, W)."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("L")) for one in found]


def test_the_page_shows_the_copies_the_classes_and_their_means(project: Path) -> None:
    images, labels = clean_images()
    copied(images, labels)
    image_data(validate.INPUT, images, labels)
    spec = read_spec(validate.INPUT)
    write_json(validate.INPUT / "spec.json", spec.model_copy(update={"classes": ("<b>a</b>", "b")}))
    validate.run()
    html = (validate.OUTPUT / "index.html").read_text()
    pair, mean, samples, *_ = shown(html)
    assert (pair[:, :SIDE] == images[5, 0]).all()
    assert (pair[:, -SIDE:] == images[7, 0]).all()
    assert (mean == images[labels == 0].mean(axis=0)[0].round()).all()
    assert (samples[:, :SIDE] == images[0, 0]).all()
    assert samples.shape == (SIDE, 12 * (SIDE + 2) - 2)
    assert "&lt;b&gt;a&lt;/b&gt;" in html
    assert "<b>a</b>" not in html
    assert not re.search(r'(src|href)="(?!data:)', html)  # nothing is fetched


def page_of(data: Dataset, **limits: object) -> str:
    held = Validate.model_validate(limits)
    report, facts = examine(data, held, kept=data.folder / "none.json")
    found = page(data, held, report, facts)
    assert not re.search(r'(src|href)="(?!data:)|url\(|<script', found), "nothing is fetched"
    return found


def test_the_page_of_a_table_shows_every_column_and_rows_in_words(tmp_path: Path) -> None:
    rows = clean_table()
    rows[7] = rows[5]
    rows[5, 0] = 150  # so that the copy is told apart by it
    rows[7, 0] = 150
    fields = (TableField(name="<i>age</i>", kind="number"), *FIELDS[1:])
    found = page_of(table_data(tmp_path, rows, labels_of(400), fields))
    for name in ("income", "member", "since", "town", "missing cells", "label"):
        assert f"<b>{name}</b>" in found
    assert "<i>age</i>" not in found
    assert found.count('class="histogram small"') == 7
    assert "&lt;i&gt;age&lt;/i&gt; 150, income" in found
    day = np.datetime64("1970-01-01") + int(rows[:, 3].min())
    assert f"{day} to " in found
    assert "Rome 3" in found


def test_the_page_of_series_draws_their_lines(tmp_path: Path) -> None:
    rows = clean_series()
    rows[0][3:6, 0] = np.nan
    found = page_of(
        series_data(tmp_path, rows, np.zeros(60, np.int64) + (np.arange(60) > 0)), min_per_class=1
    )
    first = re.findall(r'<svg class="lines".*?</svg>', found, re.S)[0]
    x, y = (path.split('"')[-2] for path in re.findall(r'<path class="line\d" d="[^"]*"', first))
    assert x.count("M") == 2, "a gap where steps are missing"
    assert y.count("M") == 1
    assert x.count("L") + x.count("M") == len(rows[0]) - 3
    heights = np.array([float(point.split()[1]) for point in re.split("[ML]", y)[1:]])
    assert np.corrcoef(heights, rows[0][:, 1])[0, 1] == pytest.approx(-1, abs=1e-3)  # upwards is less in SVG


def test_the_page_of_texts_quotes_them(tmp_path: Path) -> None:
    rows = clean_texts()
    rows[5] = "<script>alert(1)</script> is no script here, but words"
    rows[7] = rows[5]
    found = page_of(text_data(tmp_path, rows, labels_of(60)))
    assert found.count("&lt;script&gt;alert(1)") >= 2
    assert f"<blockquote>{rows[0][:100]}" in found


def test_the_page_of_a_regression_shows_its_target_and_thirds_of_it(tmp_path: Path) -> None:
    target = np.linspace(0, 100, 400)
    found = page_of(table_data(tmp_path, clean_table(), target))
    assert "<h2>Target y0</h2>" in found
    for part in ("low y0, 0 to", "middle y0", "high y0"):
        assert part in found


def test_windows_that_overlap_are_no_copies_and_rare_anomalies_no_imbalance(tmp_path: Path) -> None:
    wave = np.sin(np.arange(400) / 20)[:, None].astype(np.float32)
    windows = [wave[at : at + 60] for at in range(100)]
    windows[9] = windows[8] * 1.0001
    columns = {"task": "anomaly", "classes": ("normal", "anomaly")}
    rare = (np.arange(100) < 5).astype(np.int64)
    report, facts = examine(series_data(tmp_path, windows, rare, **columns), Validate(warn_imbalance=2))
    assert facts is not None
    assert facts.duplicates.groups[9] == 8
    assert "imbalance" not in {finding.check for finding in report.findings}
    spec = read_spec(tmp_path)
    begin = Column(name="begin", role="begin", dtype="<f8")
    np.save(tmp_path / "begin.npy", np.arange(100.0))
    write_json(tmp_path / "spec.json", spec.model_copy(update={"columns": (*spec.columns, begin)}))
    _, facts = examine(Dataset(tmp_path), Validate())
    assert facts is not None
    assert (facts.duplicates.groups == np.arange(100)).all()
