"""Stage `validate`: every planted fault is found at its level, and what is refused leaves no output."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import duplicates, validate
from pipeline.checks import Finding, robust_scores
from pipeline.core.dataset import Dataset, DatasetWriter, image_columns
from pipeline.core.params import UserError
from pipeline.duplicates import find_duplicates, pooled, similarity
from pipeline.sources import Data, MnistSource
from pipeline.validate import Report, Validate, examine
from serving.inputs.decode import decode_image
from serving.inputs.spec import DataSpec, ImageInput, read_json, read_spec, write_json

SIDE = 24


def drawings(count: int, seed: int = 0) -> np.ndarray:
    """Images (N, 1, 24, 24) of random blocks, no two of them alike."""
    blocks = np.random.default_rng(seed).integers(60, 200, (count, 1, SIDE // 4, SIDE // 4), dtype=np.uint8)
    return blocks.repeat(4, axis=2).repeat(4, axis=3)


def dataset(
    folder: Path, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...] = ("a", "b")
) -> Dataset:
    size = {"height": images.shape[2], "width": images.shape[3], "channels": images.shape[1]}
    spec = DataSpec(
        modality="image", task="classification", source="test", classes=classes,
        columns=image_columns(images.shape[1:]), image=ImageInput(**size),
    )  # fmt: skip
    ids = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images], "S64")
    with DatasetWriter(folder, spec) as writer:
        writer.append({"image": images, "label": labels.astype(np.int64), "id": ids})
    lines = [f"{row},file{row}.png,x,0" for row in range(len(images))]
    (folder / "manifest.csv").write_text("\n".join(["row,origin,class,sha256", *lines]) + "\n")
    return Dataset(folder)


def clean(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    return drawings(count), np.arange(count) % 2


def found(folder: Path, images: np.ndarray, labels: np.ndarray, **limits: float) -> dict[str, Finding]:
    report, _ = examine(dataset(folder, images, labels), Validate(**limits))
    return {finding.check: finding for finding in report.findings}


def test_clean_data_has_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, *clean()) == {}


def brighter(image: np.ndarray) -> np.ndarray:
    return image + 30


def fainter(image: np.ndarray) -> np.ndarray:
    return (image * 0.7).astype(np.uint8)


def speck(image: np.ndarray) -> np.ndarray:
    copy = image.copy()
    copy[0, 3, 4] = 255 if copy[0, 3, 4] < 128 else 0
    return copy


def recompressed(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image[0]).save(buffer, "JPEG", quality=75)
    return decode_image(buffer.getvalue(), ImageInput(height=image.shape[1], width=image.shape[2]))


def copied(images: np.ndarray, labels: np.ndarray) -> None:
    images[7] = images[5]


def copied_otherwise(images: np.ndarray, labels: np.ndarray) -> None:
    images[6] = images[5]


def nearly_copied(images: np.ndarray, labels: np.ndarray) -> None:
    images[7] = brighter(images[5])


def nearly_copied_otherwise(images: np.ndarray, labels: np.ndarray) -> None:
    images[6] = speck(images[5])


def blank(images: np.ndarray, labels: np.ndarray) -> None:
    images[5] = 128


def dark(images: np.ndarray, labels: np.ndarray) -> None:
    images[5] = 0
    images[5, 0, :12] = 9


def glaring(images: np.ndarray, labels: np.ndarray) -> None:
    images[5] = np.where(images[5] > 128, 255, 0)


FAULTS: list[tuple[Callable[[np.ndarray, np.ndarray], None], str, str, int]] = [
    (copied, "duplicates", "max_duplicates", 1),
    (copied_otherwise, "duplicate conflicts", "max_conflicts", 2),
    (nearly_copied, "near duplicates", "max_near_duplicates", 1),
    (nearly_copied_otherwise, "near conflicts", "max_near_conflicts", 2),
    (blank, "constant", "max_constant", 1),
    (dark, "brightness outliers", "max_outliers", 1),
    (glaring, "contrast outliers", "max_outliers", 1),
]


@pytest.mark.parametrize(("plant", "check", "limit", "count"), FAULTS)
def test_a_planted_fault_is_a_warning_up_to_its_limit_and_an_error_above(
    tmp_path: Path, plant: Callable[[np.ndarray, np.ndarray], None], check: str, limit: str, count: int
) -> None:
    images, labels = clean()
    plant(images, labels)
    share = count / len(labels)
    warning = found(tmp_path, images, labels, **{limit: share})[check]
    assert (warning.level, warning.count) == ("warning", count)
    assert "file5.png" in {origin for example in warning.examples for origin in example.origins}
    error = found(tmp_path, images, labels, **{limit: share - 0.001})[check]
    assert (error.level, error.count, error.limit) == ("error", count, share - 0.001)


ALONE = {
    nearly_copied_otherwise: {"near duplicates", "near conflicts"},
    copied_otherwise: {"duplicates", "duplicate conflicts"},
    blank: {"constant"},
}


@pytest.mark.parametrize("plant", ALONE)
def test_one_fault_is_not_reported_as_another(
    tmp_path: Path, plant: Callable[[np.ndarray, np.ndarray], None]
) -> None:
    images, labels = clean()
    plant(images, labels)
    assert found(tmp_path, images, labels).keys() == ALONE[plant]


def test_too_small_classes_are_errors_with_name_and_count(tmp_path: Path) -> None:
    images, labels = clean()
    labels[:] = 0
    labels[:4] = 1
    finding = found(tmp_path, images, labels)["class size"]
    assert finding.level == "error"
    assert "class 'b' has 4 samples; expected at least 5" in finding.message
    assert "class size" not in found(tmp_path, images, labels, min_per_class=4)


def test_a_single_class_is_an_error(tmp_path: Path) -> None:
    images, labels = clean()
    report, _ = examine(dataset(tmp_path, images, labels * 0, ("only",)), Validate())
    assert [(finding.level, finding.check) for finding in report.findings] == [("error", "classes")]


def test_imbalance_warns_and_then_stops(tmp_path: Path) -> None:
    images, labels = clean()
    labels[:] = 0
    labels[:8] = 1  # 32 to 8
    assert "imbalance" not in found(tmp_path, images, labels, warn_imbalance=4)
    assert found(tmp_path, images, labels, warn_imbalance=3.9)["imbalance"].level == "warning"
    assert found(tmp_path, images, labels, max_imbalance=3.9)["imbalance"].level == "error"


def test_content_of_one_value_is_an_error(tmp_path: Path) -> None:
    images, labels = clean()
    assert found(tmp_path, np.full_like(images, 7), labels)["one value"].level == "error"


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
    data = dataset(tmp_path, *clean())
    damage, message = SCHEMA[fault]
    damage(tmp_path)
    report, facts = examine(data, Validate())
    assert facts is None
    assert [finding.level for finding in report.findings] == ["error"]
    assert message in report.findings[0].message


@pytest.fixture(scope="module")
def ones() -> np.ndarray:
    """The 500 ones of the MNIST subset, the most alike of its digits: (500, 1, 28, 28)."""
    samples = islice(MnistSource(Data()), 500, 1000)
    return np.stack([decode_image(sample.raw, ImageInput()) for sample in samples])


def test_different_digits_are_no_near_copies_though_some_are_much_alike(
    tmp_path: Path, ones: np.ndarray
) -> None:
    data = dataset(tmp_path, ones, np.zeros(len(ones)))
    default = Validate().near_similarity
    assert len(find_duplicates(data, default, 1000, 10_000).pairs) == 0
    assert len(find_duplicates(data, 0.98, 1000, 10_000).pairs) > 0


@pytest.mark.parametrize("change", [brighter, fainter, speck, recompressed])
def test_changed_copies_of_digits_are_grouped_with_them(
    tmp_path: Path, ones: np.ndarray, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    few = np.minimum(ones[:40], 225)  # so that `brighter` does not wrap around
    copies = np.stack([change(image) for image in few])
    data = dataset(tmp_path, np.concatenate([few, copies]), np.zeros(80))
    groups = find_duplicates(data, Validate().near_similarity, 1000, 10_000).groups
    assert groups.tolist() == [*range(40), *range(40)]


def test_copies_are_found_across_blocks_and_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 100)
    images = drawings(1500)
    images[1400], images[250], images[1499] = images[3], speck(images[3]), fainter(images[1300])
    groups = find_duplicates(dataset(tmp_path, images, np.zeros(1500)), 0.988, 2000, 10_000).groups
    assert groups[[3, 250, 1400, 1300, 1499]].tolist() == [3, 3, 3, 1300, 1300]
    assert len(np.unique(groups)) == 1497


def test_a_chunk_that_holds_only_copies_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "VALUES", 10 * SIDE**2)
    images = np.concatenate([drawings(10)] * 3)
    images[29] = fainter(images[3])
    groups = find_duplicates(dataset(tmp_path, images, np.zeros(30)), 0.988, 100, 100).groups
    assert groups.tolist() == [*range(10), *range(10), *range(9), 3]


def test_a_search_cut_short_says_so_and_keeps_exact_groups(tmp_path: Path) -> None:
    images, labels = clean()
    copied(images, labels)
    images[9], images[11] = speck(images[5]), speck(images[3])
    for limits in ({"max_compared": 38}, {"max_candidates": 1}):
        report, facts = examine(dataset(tmp_path, images, labels), Validate(**limits))
        last = report.findings[-1]
        assert (last.level, last.check) == ("warning", "near duplicates")
        assert f"validate.{next(iter(limits))}" in last.message
        assert facts is not None
        assert facts.duplicates.groups[7] == 5


def test_similarity_agrees_with_the_correlation_of_numpy() -> None:
    one, other = drawings(5), drawings(5, seed=1)
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)]
    assert np.allclose(similarity(one, other), expected, atol=0.02)  # one pixel of 576 is left out
    flat = np.full_like(one, 9)
    assert similarity(flat, flat).tolist() == [0] * 5


def test_similarity_ignores_a_thousandth_of_the_pixels() -> None:
    one = np.tile(drawings(1), (1, 1, 5, 5))  # 14,400 pixels: 15 may be anything
    other = one.copy()
    other[0, 0, 0, :15] = 255
    assert similarity(one, other)[0] > 0.9999
    other[0, 0, 1, :100] = 255
    assert similarity(one, other)[0] < 0.99


def test_pooling_takes_the_mean_of_blocks_and_of_what_is_left_at_the_edges() -> None:
    image = np.arange(15.0).reshape(1, 1, 3, 5)
    assert pooled(image, 3).tolist() == [[[[3, 5, 6.5], [10.5, 12.5, 14]]]]


def test_robust_scores_where_most_values_are_equal() -> None:
    values = np.full(100, 50.0)
    values[:3] = 50.4, 51, 250
    assert np.abs(robust_scores(values))[[0, 1]].max() < 3
    assert robust_scores(values)[2] > 8
    hair = np.full(100, 50.0)
    hair[0] = 50.4
    assert robust_scores(hair)[0] < 1
    blank_or_not = np.concatenate([np.zeros(60), np.linspace(50, 200, 40)])
    assert np.abs(robust_scores(blank_or_not)).max() < 8
    spread = np.array([1.0, 2, 3, 4, 100]) * 10
    assert robust_scores(spread)[4] == pytest.approx(970 / 14.826)
    assert robust_scores(-spread)[4] == pytest.approx(-970 / 14.826)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("name: test\n")
    return tmp_path


def test_groups_report_and_page_are_the_same_each_time_and_in_chunks_of_any_size(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = clean()
    copied(images, labels)
    images[9] = fainter(images[5])
    images[2] = brighter(images[5])
    labels[[2, 5, 7, 9]] = 1
    dataset(validate.INPUT, images, labels)
    validate.run()
    first = {path.name: path.read_bytes() for path in validate.OUTPUT.iterdir()}
    assert first.keys() == {"report.json", "index.html", "groups.npy"}
    groups = np.load(validate.OUTPUT / "groups.npy")
    assert (groups.dtype, groups.shape) == (np.int64, (40,))
    assert groups[[2, 5, 7, 9]].tolist() == [2, 2, 2, 2]
    assert len(np.unique(groups)) == 37
    report = Report.model_validate(read_json(validate.OUTPUT / "report.json"))
    assert report.counts == {"a": 19, "b": 21}
    assert report.statistics["copies"] == {"groups": 37, "largest group": 4}
    assert report.statistics["brightness"]["mean"] == pytest.approx(images.mean(), abs=0.01)
    monkeypatch.setattr(duplicates, "VALUES", 7 * SIDE**2)  # seven rows at a time
    validate.run()
    assert first == {path.name: path.read_bytes() for path in validate.OUTPUT.iterdir()}


def test_errors_keep_the_earlier_output_and_a_later_pass_removes_their_page(project: Path) -> None:
    images, labels = clean()
    dataset(validate.INPUT, images, labels)
    validate.run()
    before = {path.name: path.read_bytes() for path in validate.OUTPUT.iterdir()}
    faulty = images.copy()
    faulty[:30] = 0
    dataset(validate.INPUT, faulty, labels)
    with pytest.raises(UserError, match=r"(?s)exact copies.*flat colour.*validate\.failed/index\.html"):
        validate.run()
    assert before == {path.name: path.read_bytes() for path in validate.OUTPUT.iterdir()}
    assert "are one flat colour" in (validate.FAILED / "index.html").read_text()
    dataset(validate.INPUT, images, labels)
    validate.run()
    assert not validate.FAILED.exists()


def test_a_broken_schema_has_a_page_too(project: Path) -> None:
    dataset(validate.INPUT, *clean())
    (validate.INPUT / "image.npy").unlink()
    with pytest.raises(UserError, match="column 'image' cannot be read"):
        validate.run()
    assert "column &#39;image&#39; cannot be read" in (validate.FAILED / "index.html").read_text()


def shown(page: str) -> list[np.ndarray]:
    """The pictures of a page, grey (H, W)."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("L")) for one in found]


def test_the_page_shows_the_copies_the_classes_and_their_means(project: Path) -> None:
    images, labels = clean()
    copied(images, labels)
    dataset(validate.INPUT, images, labels)
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
