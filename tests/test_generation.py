"""What a generator is asked and answers, and how what it makes is judged."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import generation, metrics
from pipeline.certify import comparer
from pipeline.core.dataset import Dataset
from pipeline.generation import Judge, requests_in, seen
from serving.inputs.decode import BadInput, decoder
from serving.inputs.generation import HEAD, canonical, picture
from serving.inputs.spec import write_json
from serving.predictor import named, numbers
from tests.conftest import write_dataset
from tests.generators import FITTED, halves, params, spec_for

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_seed_gives_the_same_noise_for_ever() -> None:
    row = canonical(1, 5, 3)
    assert row.dtype == np.float32
    assert row[:HEAD].tolist() == [1, 5]
    assert row[HEAD:] == pytest.approx([0.44122749, -0.33087015, 2.43077119]), "NumPy promises these"


@pytest.mark.parametrize("body", [b'{"label": "b", "seed": 16777215}', {"label": "b", "seed": 16777215}])
def test_a_request_is_a_class_and_a_seed(body: bytes | dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "model.json", params())
    decode = decoder(spec_for(), tmp_path)
    np.testing.assert_array_equal(decode(body), canonical(1, 2**24 - 1, 4))
    drawn = {int(decode({"label": "a"})[1]) for _ in range(5)}
    assert len(drawn) > 1, "no seed, so one is drawn"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"label": "c"}', "'label' must be a string, one of a, b; found 'c'"),
        (b'{"label": 1}', "'label' must be a string, one of a, b; found 1"),
        (b'{"label": ["a"]}', "'label' must be a string, one of"),
        (b'{"label": "a", "seed": -1}', "'seed' must be a whole number from 0 to 16777215; found -1"),
        (b'{"label": "a", "seed": 16777216}', "found 16777216"),
        (b'{"label": "a", "seed": 1.5}', "found 1.5"),
        (b'{"label": "a", "seed": true}', "found True"),
        (b'{"label": "a", "size": 3}', "expected a JSON object with 'label' and, if wanted, 'seed'; found"),
        (b"[1]", "found list"),
        (b"\x89PNG", "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_a_bad_request_is_told_why(body: bytes, told: str, tmp_path: Path) -> None:
    write_json(tmp_path / "model.json", params())
    with pytest.raises(BadInput) as error:
        decoder(spec_for(), tmp_path)(body)
    assert told in str(error.value)


def test_an_answer_tells_what_made_it_and_certify_reads_it_back() -> None:
    spec = spec_for()
    row = np.concatenate([[1, 77], np.linspace(0.2, 254.8, 64)]).astype(np.float32)
    answer = json.loads(json.dumps(named(spec, row)))
    assert answer.keys() == {"label", "seed", "image"}
    assert (answer["label"], answer["seed"]) == ("b", 77)
    assert base64.b64decode(answer["image"]).startswith(b"\x89PNG")
    read = np.array(numbers(spec, answer))
    assert np.abs(read - row).max() <= 0.5
    assert np.array_equal(read[HEAD:].reshape(1, 8, 8), picture(row, spec))


def test_rounding_excuses_half_a_grey_level_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "spec.json", spec_for())
    write_json(tmp_path / "transform.json", FITTED)
    monkeypatch.setattr("pipeline.certify.BUNDLE", tmp_path)
    compare = comparer(1e-4)
    expected = np.array([[1, 7, 100.5, 30.2]], np.float32)
    live = np.array([[1, 7, 101, 30]], np.float32)
    assert compare("live", expected, live, 1)["same"]
    assert not compare("offline", expected, live, 0)["same"]
    assert not compare("live", expected - np.float32(0.6), live, 1)["same"], "another weight, another pixel"
    assert not compare("live", expected, live + np.eye(4)[1:2], 1)["same"], "another seed"


def judged(made: np.ndarray, folder: Path, labels: np.ndarray | None = None) -> dict[str, float]:
    train = write_dataset(folder / "train", *halves(300, 0), ("a", "b"))
    real, classes = halves(200, 1)
    rows = Judge(train).see(classes if labels is None else labels, real, made)
    ones = np.ones((1, 200))
    return {
        name: float(getattr(generation, name)(ones, classes, rows)[0])
        for name in ("frechet", "agreement", "coverage", "copied")
    }


def test_real_images_pass_every_check(tmp_path: Path) -> None:
    found = judged(halves(200, 2)[0], tmp_path)
    assert found["frechet"] < 0.02
    assert found["agreement"] == 1
    assert found["coverage"] > 0.8
    assert found["copied"] < 0.05


def test_training_images_are_found_out_as_copies(tmp_path: Path) -> None:
    found = judged(halves(300, 0)[0][:200], tmp_path)
    assert found["copied"] == 1
    assert found["frechet"] < 0.1, "which nothing else notices"


def test_one_image_a_class_covers_little(tmp_path: Path) -> None:
    real, labels = halves(200, 2)
    found = judged(real[labels], tmp_path)
    assert found["coverage"] < 0.2
    assert found["frechet"] > 0.05


def test_images_of_the_wrong_class_are_far_though_all_together_they_are_right(tmp_path: Path) -> None:
    found = judged(halves(200, 2)[0][::-1], tmp_path)
    assert found["agreement"] == 0
    assert found["frechet"] > 0.5


def test_the_distance_is_that_of_scipy_and_its_interval_lies_about_it(tmp_path: Path) -> None:
    from scipy.linalg import sqrtm

    draw = np.random.default_rng(0)
    half = draw.normal(size=(400, 6)), draw.normal(0.2, 1.3, (400, 6)) @ draw.normal(0.2, 0.5, (6, 6))
    rows = np.hstack([np.zeros((400, 3)), *half])
    (a, one), (b, two) = ((each.mean(0), np.cov(each.T, bias=True)) for each in half)
    expected = ((a - b) ** 2).sum() + np.trace(one + two - 2 * sqrtm(one @ two).real)
    value = generation.frechet(np.ones((1, 400)), np.zeros(400), rows)[0]
    assert value == pytest.approx(expected, rel=1e-6)
    weights = draw.multinomial(400, np.full(400, 1 / 400), 60).astype(float)
    found = generation.frechet(weights, np.zeros(400), rows)
    assert found.mean() > value, "resamples are further apart"
    low, high = metrics.interval(found, 0.95, about=value)
    assert low < value < high
    assert "frechet" in metrics.BIASED


def test_a_class_mean_is_no_generator(tmp_path: Path) -> None:
    """The trivial baseline is beaten by real images, in both metrics that promotion may compare."""
    train = write_dataset(tmp_path / "train", *halves(300, 0), ("a", "b"))
    folder = tmp_path / "test"
    write_dataset(folder, *halves(100, 1), ("a", "b"))
    write_json(folder / "spec.json", spec_for())
    test = Dataset(folder)
    trivial = seen(test, train.folder, generation.means(test, train.folder))
    ones = np.ones((1, 100))
    real = Judge(train).see(test.targets, np.array(test.inputs), halves(100, 2)[0])
    for metric, sign in ((generation.frechet, -1), (generation.coverage, 1)):
        better, worse = (sign * metric(ones, test.targets, rows)[0] for rows in (real, trivial))
        assert better > worse + 0.01
    write_json(folder / "model.json", params())
    (rows,) = requests_in(test, folder)
    np.testing.assert_array_equal(rows[3], canonical(1, 3, 4))
