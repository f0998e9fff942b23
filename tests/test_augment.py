"""Stage `augment` and the transforms of batches: originals kept, copies seeded, every transform felt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline import augment
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError, validate
from pipeline.fitting.augmentation import Augmentation, OnPixels, build, on_images
from pipeline.pictures import grid
from serving.inputs.spec import Transform, write_json
from tests.conftest import digits, set_params, spec_of, write_dataset

OUTPUT = Path("data/augment")
NAMES = ("image", "label", "id")
TRANSFORM = Transform(mean=(40.0,), std=(70.0,))
ELSEWHERE = {"noise", "masking"}  # of series, tables and texts
NONE = {name: 0.0 for name in Augmentation.model_fields if name != "strength"}
EACH = {
    "rotation": 30, "shift": 0.2, "scale": 0.4, "shear": 30, "crop": 0.6, "elastic": 2.0, "flip": 1.0, "erasing": 1.0
}  # fmt: skip


def train_split(project: Path, count: int = 30) -> Dataset:
    images, labels = digits(count, 0)
    (project / "data/prepare/transform").mkdir(parents=True)
    write_json(project / "data/prepare/transform/transform.json", TRANSFORM)
    return write_dataset(project / "data/prepare/train", images, labels)


# --- the stage


def test_factor_zero_is_the_training_split_byte_for_byte(project: Path) -> None:
    train = train_split(project)
    set_params(project, {"augment.factor": 0})
    augment.run()
    for name in NAMES:
        assert (OUTPUT / f"{name}.npy").read_bytes() == (train.folder / f"{name}.npy").read_bytes()
    assert Dataset(OUTPUT).spec == train.spec


def test_copies_follow_the_originals_with_their_labels_and_ids(project: Path) -> None:
    train = train_split(project)
    set_params(project, {"augment.factor": 2})
    augment.run()
    made = Dataset(OUTPUT)
    assert len(made) == 90
    images = np.array(made.column("image")).reshape(3, 30, 1, 28, 28)
    np.testing.assert_array_equal(images[0], train.column("image"))
    for copy in range(3):
        part = slice(30 * copy, 30 * (copy + 1))
        np.testing.assert_array_equal(made.column("label")[part], train.column("label"))
        np.testing.assert_array_equal(made.column("id")[part], train.column("id"))
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert (images[one] != images[two]).reshape(30, -1).any(axis=1).all(), (
            "every copy differs from the others"
        )
    assert images.mean(axis=(1, 2, 3, 4)) == pytest.approx([images[0].mean()] * 3, rel=0.15), (
        "on the 0..255 scale"
    )


def test_the_stage_obeys_its_seed(project: Path) -> None:
    train_split(project)
    found = []
    for seed in (1, 1, 2):
        set_params(project, {"seed": seed})
        augment.run()
        found.append((OUTPUT / "image.npy").read_bytes())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(("factor", "tiles"), [(0, (12, 1)), (2, (12, 3))])
def test_the_picture_shows_samples_above_their_copies(
    project: Path, factor: int, tiles: tuple[int, int]
) -> None:
    train = train_split(project)
    set_params(project, {"augment.factor": factor})
    augment.run()
    with Image.open(OUTPUT / "samples.png") as picture:
        shown = np.asarray(picture.convert("L"))
    assert shown.shape == (tiles[1] * 58 + 2, tiles[0] * 58 + 2)
    np.testing.assert_array_equal(shown[2:58:2, 2:58:2], train.column("image")[0][0])
    np.testing.assert_array_equal(shown[2:58:2, 60:116:2], train.column("image")[2][0])
    if factor:
        np.testing.assert_array_equal(shown[60:116:2, 2:58:2], Dataset(OUTPUT).column("image")[30][0])


def test_grid_puts_every_image_in_its_place() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((1, 3, 4, 6), 10, np.uint8)
    sheet = np.asarray(grid(images, columns=2, scale=3, gap=1))
    assert sheet.shape == (3 * 13 + 1, 2 * 19 + 1, 3)
    for at in range(5):
        top, left = 1 + at // 2 * 13, 1 + at % 2 * 19
        assert (sheet[top : top + 12, left : left + 18] == 10 * at).all()
    assert (sheet[-1] == 128).all()


# --- the transforms

SPEC = spec_of((1, 28, 28), "ab")


def batch(count: int = 16, channels: int = 1) -> torch.Tensor:
    images, _ = digits(count, 0)
    return torch.from_numpy(images).repeat(1, channels, 1, 1)


def only(name: str, strength: float = 1.0) -> nn.Module:
    return build(Augmentation(**{**NONE, name: EACH[name]}, strength=strength), SPEC, TRANSFORM)


def test_every_transform_is_tested() -> None:
    assert EACH.keys() | ELSEWHERE == NONE.keys()


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transform_changes_pixels_and_nothing_else(name: str, channels: int) -> None:
    torch.manual_seed(0)
    images = batch(64, channels)
    before = images.clone()
    found = only(name)(images)
    assert torch.equal(images, before), "the input is left alone"
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert not only(name)(images.float().requires_grad_()).requires_grad, "no gradients are kept"
    assert found.min() >= 0
    assert 100 < found.max() <= 255.001
    changed = ((found - images).abs().flatten(1).max(1).values > 20).float().mean()
    assert changed > 0.9, "a draw may come out near zero, not many"
    if channels == 3:
        torch.testing.assert_close(found[:, 0], found[:, 2], msg="all channels are moved alike")


@pytest.mark.parametrize("name", EACH)
def test_members_of_a_batch_get_draws_of_their_own(name: str) -> None:
    torch.manual_seed(0)
    unsure = on_images(Augmentation(**{**NONE, "flip": 0.5}), 28, 28)  # a sure flip is the same for all
    module = unsure if name == "flip" else only(name)
    found = module(batch(1).repeat(16, 1, 1, 1)).flatten(1)
    distinct = len(torch.unique(found.round(), dim=0))
    assert distinct == 2 if name == "flip" else distinct >= 12
    assert not torch.equal(module(batch()), module(batch())), "and so do batches"


def test_the_torch_seed_decides() -> None:
    module = on_images(Augmentation(**EACH), 28, 28)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(module(batch()))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("given", [{**EACH, "strength": 0.0}, NONE, NONE | dict.fromkeys(ELSEWHERE, 0.5)])
def test_nothing_asked_is_nothing_done(given: dict[str, float]) -> None:
    module = build(Augmentation(**given), SPEC, TRANSFORM)
    assert isinstance(module, nn.Identity)
    assert module(images := batch()) is images


def test_a_sure_flip_mirrors() -> None:
    torch.testing.assert_close(only("flip")(batch()), batch().flip(-1).float())


@pytest.mark.parametrize("name", [name for name in EACH if name not in ("flip", "erasing")])
def test_strength_multiplies_the_amount(name: str) -> None:
    """A third of the strength moves pixels clearly less."""
    change = []
    for strength in (1 / 3, 1.0):
        torch.manual_seed(0)
        images = batch(64)
        change.append(float((only(name, strength)(images) - images).abs().mean()))
    assert 0.05 < change[0] < 0.8 * change[1], change


def test_a_shift_stays_within_its_share() -> None:
    """A dot in the middle of 28 pixels moves by 0.1 of the side at most, and by nearly that at times."""
    images = torch.zeros(256, 1, 28, 28)
    images[:, :, 14, 14] = 255
    torch.manual_seed(0)
    found = on_images(Augmentation(**{**NONE, "shift": 0.1}), 28, 28)(images)
    across = (found.sum(2) * torch.arange(28)).sum(-1) / found.sum((2, 3))
    moved = (across - 14).abs().max()
    assert 2.4 < moved < 2.9


def displaced(height: int, width: int) -> torch.Tensor:
    """How far the elastic transform moves the middle of images (N, H, W) across, in shares of the side."""
    torch.manual_seed(0)
    across = torch.linspace(50, 200, width).repeat(
        64, 1, height, 1
    )  # far from 0, which fills what is outside
    module = on_images(Augmentation(**{**NONE, "elastic": 1.0}), height, width)
    moved = (module(across) - across)[:, 0] / 150 * (1 - 1 / width)
    return moved[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 64), (128, 128), (64, 28), (28, 128)])
def test_elastic_distortion_looks_alike_at_every_size(height: int, width: int) -> None:
    known, found = displaced(28, 28), displaced(height, width)
    far = [float(moved.square().mean().sqrt()) for moved in (known, found)]
    steep = [float(moved.diff(dim=2).abs().mean()) * side for moved, side in ((known, 28), (found, width))]
    assert far[1] == pytest.approx(far[0], rel=0.1)
    assert steep[1] < 1.1 * steep[0], "neighbours move together: nothing is torn"


def test_elastic_distortion_of_28_pixels_is_kornias_bit_for_bit() -> None:
    from kornia.augmentation import RandomElasticTransform

    known = OnPixels([RandomElasticTransform((9, 9), (4.0, 4.0), (2.0, 2.0), p=1.0)])
    found = []
    for module in (only("elastic"), known):
        torch.manual_seed(0)
        found.append(module(batch()))
    assert torch.equal(*found)


def test_erasing_happens_as_often_as_asked() -> None:
    torch.manual_seed(0)
    images = torch.full((2_000, 1, 28, 28), 200.0)
    found = on_images(Augmentation(**{**NONE, "erasing": 0.3}), 28, 28)(images)
    gone = (found != 200).flatten(1).float().mean(1)
    assert (gone > 0).float().mean() == pytest.approx(0.3, abs=0.05)
    assert gone.max() < 0.13, "a tenth of the area at most"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"rotation": 181}, r"'augment\.transform\.rotation'.*180.*found 181"),
        ({"rotate": 5}, "rotation"),
        ({"strength": -1}, r"strength'.*found -1"),
    ],
)
def test_wrong_amounts_are_refused(given: dict[str, float], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        validate(Augmentation, given, "augment.transform")
