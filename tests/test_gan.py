"""The generator: what it is asked and answers, what it learns, how it is judged, and what it is to rare classes."""

from __future__ import annotations

import base64
import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import gan
from models.gan import Generator
from models.params import Model
from models.served import Served, load, save
from pipeline import augment, generation, rare
from pipeline.certify import comparer
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.export import export_graphs
from pipeline.fitting import fit as fitting
from pipeline.fitting.diagnoses import Facts, diagnose
from pipeline.fitting.doctor import Doctor
from pipeline.fitting.fit import Job, Train, assemble, check_suits, fit
from pipeline.fitting.ratefinder import with_rate
from pipeline.generation import Judge, requests_in, seen
from pipeline.sources import Data, open_source
from serving.inputs.decode import BadInput, decoder
from serving.inputs.generation import HEAD, canonical, latent_of, picture, request_column
from serving.inputs.spec import DataSpec, Transform, write_json
from serving.predictor import BACKENDS, Predictor, named, numbers
from tests.conftest import spec_of, write_dataset
from tests.small import CPU, table_spec, write

pytestmark = pytest.mark.usefixtures("one_thread")
FITTED = Transform(mean=(60.0,), std=(80.0,))
ODD = (3, 15, 18)


def spec_for(shape: tuple[int, ...] = (1, 8, 8), classes: str = "ab") -> DataSpec:
    return spec_of(shape, classes).model_copy(update={"task": "generation"})


def params(**more: Any) -> Model:
    return Model.model_validate({"family": "gan", "width": 6, "depth": 1, "latent": 4, "dropout": 0, **more})


def halves(count: int, seed: int, rare: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 8, 8) uint8: class 0 is bright above, class 1 below; with `rare`, so many are of class 1."""
    draw = np.random.default_rng(seed)
    labels = (np.arange(count) < rare).astype(np.int64) if rare else np.arange(count, dtype=np.int64) % 2
    images = draw.integers(0, 60, (count, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * label : 4 * label + 4] += draw.integers(120, 190)
    return images.astype(np.uint8), labels


def job_of(folder: Path, seed: int = 7, model: dict[str, Any] | None = None, **settings: Any) -> Job:
    if not (folder / "train").exists():
        write_dataset(folder / "train", *halves(192, 0), ("a", "b"))
        write_dataset(folder / "val", *halves(64, 1), ("a", "b"))
    given = {"max_epochs": 12, "batch_size": 16, "lr": 0.004, "weight_decay": 0, "warmup": 0.02, "patience": 0,
             "ema": 0.95, "gradient_clip": 0.0, "augmentation": {"strength": 0}, **settings}  # fmt: skip
    return Job(
        params(**(model or {})), Train.model_validate(given), spec_for(), FITTED, folder / "train", folder / "val",
        seed, CPU,
    )  # fmt: skip


# --- requests and answers


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
        (b'{"label": "c"}', "'label' must be one of a, b; found 'c'"),
        (b'{"label": 1}', "'label' must be one of a, b; found 1"),
        (b'{"label": ["a"]}', "'label' must be one of"),
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


# --- the networks


@pytest.mark.parametrize("shape", [(1, 8, 8), ODD, (1, 28, 28)])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_shapes_and_gradients_of_both_players(shape: tuple[int, ...], norm: str) -> None:
    torch.manual_seed(0)
    net = Generator(params(normalisation=norm, depth=2, initialisation="orthogonal"), spec_for(shape))
    critic = net.critic()
    labels = torch.arange(6) % 2
    made = net.images(labels, torch.randn(6, 4))
    assert made.shape == (6, *shape)
    assert made.abs().max() <= 1
    scores = critic(made, labels)
    assert scores.shape == (6,)
    scores.square().sum().backward()
    for player in (net, critic):
        for name, weight in player.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name


def test_the_critic_sees_images_of_a_class_that_are_all_alike() -> None:
    torch.manual_seed(0)
    critic = Generator(params(), spec_for()).critic()
    labels = torch.arange(8) % 2
    features = labels[:, None] * torch.ones(8, 5)
    assert critic.spread(features, labels).max() < 1e-3, "classes differ, images of one do not"
    assert critic.spread(torch.randn(8, 5), labels).min() > 0.5


@pytest.mark.parametrize("shape", [(1, 8, 8), ODD])
def test_every_backend_generates_the_same(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec, chosen = spec_for(shape), params(depth=2)
    served = Served(chosen, spec, FITTED)
    served.train()(torch.from_numpy(np.stack([canonical(at % 2, at, 4) for at in range(16)])))
    save(served, chosen, spec, FITTED, tmp_path)
    export_graphs(load(tmp_path), request_column(latent_of(tmp_path)), tmp_path)
    rows = np.stack([canonical(at % 2, at, 4) for at in range(5)])
    with torch.inference_mode():
        expected = served.eval()(torch.from_numpy(rows)).numpy()
    assert expected.shape == (5, HEAD + int(np.prod(shape)))
    assert (expected[:, :HEAD] == rows[:, :HEAD]).all()
    assert 0 <= expected[:, HEAD:].min() < expected[:, HEAD:].max() <= 255
    for backend in BACKENDS:
        predictor = Predictor(tmp_path, backend)
        for chunk in (1, 2, 5):
            np.testing.assert_allclose(predictor.outputs(rows, chunk), expected, atol=2e-3)
        answers = predictor.answer(
            [b'{"label": "b", "seed": 3}', b"{}", b'{"label": "b", "seed": 3}'], ["1", "2", "3"]
        )
        assert isinstance(answers[1], BadInput), "and it spoils no other"
        assert isinstance(answers[0], dict)
        assert isinstance(answers[2], dict)
        assert answers[0]["image"] == answers[2]["image"]


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(gan) == (0, 1)
    assert doctest.testmod(rare) == (0, 1)


# --- the task


def test_a_short_training_tells_two_classes_apart(tmp_path: Path) -> None:
    log: list[dict[str, float]] = []
    doctor = Doctor()
    served = fit(job_of(tmp_path), [lambda _, metrics: log.append(metrics)], tmp_path / "state", [doctor])
    rows = np.stack([canonical(at % 2, at, 4) for at in range(64)])
    with torch.inference_mode():
        images = served(torch.from_numpy(rows)).numpy()[:, HEAD:].reshape(-1, 8, 8)
    brighter = images[:, :4].mean((1, 2)) > images[:, 4:].mean((1, 2))
    assert (brighter == (np.arange(64) % 2 == 0)).mean() > 0.95
    assert images[::2].std(0).mean() > 5, "and images of a class differ"
    assert min(row["val_loss"] for row in log) < 0.3 < log[0]["val_loss"]
    assert diagnose(doctor.facts) == [], "the doctor is silent"
    assert doctor.facts.adversarial
    assert {0.0} != set(doctor.facts.looks[-1].changes.values()), "it watches the generator"


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(epoch: int, _: dict[str, float]) -> None:
        if epoch == 1:
            raise Killed

    job = job_of(tmp_path, max_epochs=3)
    whole = fit(job, [], tmp_path / "one").state_dict()
    with pytest.raises(Killed):
        fit(job, [kill], tmp_path / "two")
    resumed = fit(job, [], tmp_path / "two").state_dict()
    again = fit(job_of(tmp_path, seed=8, max_epochs=3), [], tmp_path / "three").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], again[name]) for name in whole), "another seed, other weights"


def test_gradients_are_clipped_for_either_player(tmp_path: Path) -> None:
    task, *_ = assemble(job_of(tmp_path, gradient_clip=0.5))
    optimiser = torch.optim.SGD(task.served.parameters(), 0.1)
    for weight in task.served.parameters():
        weight.grad = torch.ones_like(weight)
    task.on_before_optimizer_step(optimiser)
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in task.served.parameters()])
    assert float(norm) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("name", ["l1", "mixup", "focal", "huber"])
def test_what_two_players_have_no_use_for_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"train\.{name} is of use to .* generation; set it to 0"):
        check_suits(Train.model_validate({name: 0.1}), spec_for())
    check_suits(Train(sampling="over"), spec_for())


def test_no_rate_is_searched_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.lr: 0 asks for a range test"):
        with_rate(job_of(tmp_path, lr=0))


def test_a_source_must_hold_images_with_classes(tmp_path: Path) -> None:
    assert open_source(Data(source="mnist", task="generation")).spec.task == "generation"
    (tmp_path / "t.csv").write_text("a,b\n1,x\n2,y\n3,x\n")
    with pytest.raises(UserError, match="needs a source of images with classes; found table"):
        open_source(Data(source="table", path=str(tmp_path / "t.csv"), task="generation"))


# --- the doctor


def test_a_critic_that_wins_outright_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator hardly moves: its optimiser has a hundred-thousandth of the rate."""

    class Broken(fitting.Adversarial):
        def configure_optimizers(self) -> Any:
            made, schedules = super().configure_optimizers()
            schedules[0].base_lrs = [1e-5 * self.optimiser.lr]
            return made, schedules

    monkeypatch.setitem(fitting.TASKS, "generation", Broken)
    doctor = Doctor()
    fit(job_of(tmp_path, max_epochs=10), [], callbacks=[doctor])
    found = diagnose(doctor.facts)
    assert [one.name for one in found] == ["unstable GAN"]
    assert "the critic wins outright" in found[0].evidence


@pytest.mark.parametrize(
    ("train", "val", "score", "told"),
    [
        ((1.0, 0.9, 0.9, 0.9), (0.9, 0.4, 0.2, 0.1), (0.1, 0.3, 0.4, 0.6), ""),
        ((1.0, 0.01, 0.0, 0.0), (0.9, 0.9, 0.9, 0.9), (0.1, 0.1, 0.1, 0.1), "wins outright"),
        ((1.0, 0.9, 0.9, 0.9), (0.9, 0.8, 0.8, 0.8), (0.1, 0.02, 0.01, 0.01), "all alike"),
        ((1.0, 0.9, 0.9, 0.9), (0.9, 0.1, 0.3, 0.8), (0.1, 0.5, 0.4, 0.3), "0.8 again"),
        (
            (1.0, float("nan"), 0.9, 0.9),
            (0.9, 0.1, 0.3, float("nan")),
            (0.1, 0.5, 0.4, 0.3),
            "no finite number",
        ),
        ((1.0,), (0.9,), (0.0,), ""),
    ],
)
def test_diagnoses_follow_from_facts(train: Any, val: Any, score: Any, told: str) -> None:
    found = diagnose(Facts((), train, val, 1.0, 1.0, 0.001, score, True))
    assert len(found) == bool(told)
    assert told in "".join(map(str, found))


# --- the judge


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
    assert found.min() < value < found.max()
    assert found.mean() == pytest.approx(value)


def test_a_class_mean_is_no_generator(tmp_path: Path) -> None:
    """The trivial baseline is beaten by real images, in both metrics that promotion may compare."""
    train = write_dataset(tmp_path / "train", *halves(300, 0), ("a", "b"))
    folder = tmp_path / "test"
    write_dataset(folder, *halves(100, 1), ("a", "b"))
    write_json(folder / "spec.json", spec_for())
    test = Dataset(folder)
    trivial = seen(test, train, generation.means(test, train))
    ones = np.ones((1, 100))
    real = Judge(train).see(test.targets, np.array(test.inputs), halves(100, 2)[0])
    for metric, sign in ((generation.frechet, -1), (generation.coverage, 1)):
        better, worse = (sign * metric(ones, test.targets, rows)[0] for rows in (real, trivial))
        assert better > worse + 0.01
    write_json(folder / "model.json", params())
    (rows,) = requests_in(test, folder)
    np.testing.assert_array_equal(rows[3], canonical(1, 3, 4))


# --- images of rare classes


def test_rare_classes_are_filled_up_from_the_training_split(tmp_path: Path) -> None:
    images, labels = halves(90, 0, rare=20)
    train = write_dataset(tmp_path / "train", images, labels, ("a", "b"))
    small = rare.Gan(max_epochs=8, batch_size=16, lr=0.004, width=6, depth=1, latent=4)
    settings = augment.Augment(factor=0, oversample="gan", gan=small)
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        assert augment.augment(train, FITTED, settings, 3, out, CPU) == 140
    made = Dataset(outs[0])
    assert np.bincount(made.targets).tolist() == [70, 70]
    assert made.spec == train.spec
    np.testing.assert_array_equal(made.inputs[:90], images)
    new = np.array(made.inputs[90:], float)
    assert (new[:, 0, 4:].mean((1, 2)) > new[:, 0, :4].mean((1, 2))).mean() > 0.9, (
        "they are of the rare class"
    )
    assert len(set(np.array(made.column("id")))) > 130, "with ids of their own"
    assert (outs[0] / "image.npy").read_bytes() == (outs[1] / "image.npy").read_bytes()


def test_a_gan_is_refused_where_there_are_no_images_of_classes(tmp_path: Path) -> None:
    rows = np.ones((10, 2), np.float32)
    data = Dataset(write(tmp_path / "train", table_spec(["number"] * 2), rows, np.arange(10) % 2))
    with pytest.raises(
        UserError, match=r"'gan' makes images of classes, and this is table.*there is 'smote'"
    ):
        augment.augment(data, FITTED, augment.Augment(oversample="gan"), 0, tmp_path / "out")


def test_balanced_classes_need_no_gan(tmp_path: Path) -> None:
    train = write_dataset(tmp_path / "train", *halves(20, 0), ("a", "b"))
    images, labels = rare.generate(train, FITTED, rare.Gan(), 0, CPU)
    assert images.shape == (0, 1, 8, 8)
    assert len(labels) == 0
