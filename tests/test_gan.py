"""The two players: their networks, their training, and what the doctor says of it."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import gan
from models.gan import Generator
from models.served import Served, load, save
from pipeline import rare
from pipeline.core.params import UserError
from pipeline.export import export_graphs
from pipeline.fitting import assembly
from pipeline.fitting.assembly import check_suits
from pipeline.fitting.diagnoses import Facts, diagnose
from pipeline.fitting.doctor import Doctor
from pipeline.fitting.fit import Train, assemble, fit
from pipeline.fitting.ratefinder import with_rate
from pipeline.sources import Data, open_source
from serving.inputs.decode import BadInput
from serving.inputs.generation import HEAD, canonical, latent_of, request_column
from serving.predictor import BACKENDS, Predictor
from tests.generators import FITTED, ODD, job_of, params, spec_for

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_a_critic_that_wins_outright_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator hardly moves: its optimiser has a hundred-thousandth of the rate."""

    class Broken(assembly.Adversarial):
        def configure_optimizers(self) -> Any:
            made, schedules = super().configure_optimizers()
            schedules[0].base_lrs = [1e-5 * self.optimiser.lr]
            return made, schedules

    monkeypatch.setitem(assembly.TASKS, "generation", Broken)
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
