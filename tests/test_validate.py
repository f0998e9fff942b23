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
from pipeline.core.params import UserError
from pipeline.facts import measures
from pipeline.limits import Validate
from pipeline.validate import Report, examine
from serving.inputs.spec import read_json, read_spec, write_json
from tests.validation import SIDE, brighter, clean_images, copied, drawings, fainter, image_data

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
    page = (validate.OUTPUT / "index.html").read_text()
    pair, mean, samples, *_ = shown(page)
    assert (pair[:, :SIDE] == images[5, 0]).all()
    assert (pair[:, -SIDE:] == images[7, 0]).all()
    assert (mean == images[labels == 0].mean(axis=0)[0].round()).all()
    assert (samples[:, :SIDE] == images[0, 0]).all()
    assert samples.shape == (SIDE, 12 * (SIDE + 2) - 2)
    assert "&lt;b&gt;a&lt;/b&gt;" in page
    assert "<b>a</b>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is fetched
