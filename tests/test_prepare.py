"""Stage `prepare`: a split that is stable, seeded and fair, and a transform that has seen train only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import prepare
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError, validate
from pipeline.prepare import SPLITS, Prepare
from pipeline.splits import assign
from pipeline.transforms import FITS
from serving.inputs.spec import Transform, read_spec
from tests.conftest import digits, identities, set_params, write_dataset
from tests.staged import peak

SETTINGS = Prepare()
SHARES = (1 - SETTINGS.val - SETTINGS.test, SETTINGS.val, SETTINGS.test)
OUTPUT = Path("data/prepare")


def ids_of(count: int, seed: int = 0) -> np.ndarray:
    return identities(np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8))


def split_of(
    ids: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, seed: int = 7
) -> np.ndarray:
    return assign(ids, labels, np.arange(len(ids)) if groups is None else groups, SETTINGS, seed)


def test_adding_samples_moves_none() -> None:
    """Nor does their order, nor what the groups are called."""
    ids, labels = ids_of(3_000), np.arange(3_000) % 10
    groups = np.arange(3_000) // 2
    whole = split_of(ids, labels, groups)
    np.testing.assert_array_equal(whole[:1_000], split_of(ids[:1_000], labels[:1_000], groups[:1_000]))
    order = np.random.default_rng(0).permutation(3_000)
    renamed = np.random.default_rng(1).permutation(1_500)[groups]
    np.testing.assert_array_equal(whole[order], split_of(ids[order], labels[order], renamed[order]))


def test_the_seed_decides() -> None:
    ids, labels = ids_of(2_000), np.arange(2_000) % 10
    first, second = split_of(ids, labels, seed=1), split_of(ids, labels, seed=2)
    np.testing.assert_array_equal(first, split_of(ids, labels, seed=1))
    together = (first[first > 0] == second[first > 0]).mean()
    assert together < 0.25, "of what was held out, another seed holds out about 15 % in the same split"


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_every_class_is_split_in_the_shares(seed: int) -> None:
    """As well as independent draws are: within 4 binomial deviations for each of 30 counts."""
    labels = np.repeat(np.arange(10), np.linspace(200, 1_500, 10).astype(int))
    split = split_of(ids_of(len(labels)), labels, seed=seed)
    for label in range(10):
        size = (labels == label).sum()
        for number, share in enumerate(SHARES):
            off = (split[labels == label] == number).sum() - size * share
            assert abs(off) < 4 * np.sqrt(size * share * (1 - share)), (label, number, off)


def test_the_shares_are_those_asked_for() -> None:
    settings = Prepare(val=0.4, test=0.05)
    split = assign(ids_of(20_000), np.zeros(20_000, int), np.arange(20_000), settings, 3)
    np.testing.assert_allclose(np.bincount(split) / 20_000, (0.55, 0.4, 0.05), atol=0.015)


def test_a_group_is_never_divided() -> None:
    draw = np.random.default_rng(0)
    groups, labels = draw.integers(0, 400, 3_000), draw.integers(0, 5, 3_000)
    split = split_of(ids_of(3_000), labels, groups)
    assert set(split.tolist()) == {0, 1, 2}
    for group in np.unique(groups):
        assert len(set(split[groups == group].tolist())) == 1, group


@pytest.mark.parametrize("size", [3, 4, 6])
@pytest.mark.parametrize("settings", [SETTINGS, Prepare(val=0.45, test=0.45)], ids=["usual", "little train"])
def test_a_small_class_is_in_every_split(size: int, settings: Prepare) -> None:
    """For every of 40 seeds; the large class beside it stays where it is."""
    labels, ids = np.append(np.zeros(100, int), np.ones(size, int)), ids_of(100 + size)
    groups = np.arange(len(ids))
    for seed in range(40):
        split = assign(ids, labels, groups, settings, seed)
        assert set(split[labels == 1].tolist()) == {0, 1, 2}, seed
        np.testing.assert_array_equal(
            split[:100], assign(ids[:100], labels[:100], groups[:100], settings, seed)
        )


@pytest.mark.parametrize(("groups", "found"), [([0, 1], 2), ([0], 1), ([0, 0, 1, 1, 0], 2)])
def test_a_class_too_small_for_three_splits_is_refused(groups: list[int], found: int) -> None:
    labels = np.append(np.zeros(30, int), np.full(len(groups), 4))
    with pytest.raises(
        UserError, match=f"class '4' has {found} distinct samples; train, val and test need at least one"
    ):
        split_of(ids_of(len(labels)), labels, np.append(np.arange(30), 30 + np.array(groups)))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"val": 0.5, "test": 0.5}, "leave some for training"),
        ({"val": 0}, r"'prepare\.val'.*found 0"),
        ({"vla": 0.1}, "'val'"),
    ],
)
def test_wrong_shares_are_refused(given: dict[str, float], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        validate(Prepare, given, "prepare")


def fitted_on(folder: Path, images: np.ndarray) -> Transform:
    dataset = write_dataset(folder, images, np.arange(len(images)) % 10)
    return FITS["image"](dataset, np.ones(len(images), bool), folder).transform


@pytest.mark.parametrize("channels", [1, 3])
def test_moments_are_numpys(tmp_path: Path, channels: int) -> None:
    """Over several chunks: the data set has more rows than one."""
    images = np.random.default_rng(0).integers(0, 256, (2_500, channels, 9, 7), dtype=np.uint8)
    images[:, -1] //= 3
    images[1_200:] //= 2
    found = fitted_on(tmp_path, images)
    np.testing.assert_allclose(found.mean, images.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, images.std(axis=(0, 2, 3)), rtol=1e-9)


def test_a_constant_channel_is_not_divided_by_zero(tmp_path: Path) -> None:
    images = np.stack([np.full((8, 5, 5), 123), np.arange(200).reshape(8, 5, 5)], axis=1)
    images = np.concatenate([images, images[:, :1]], axis=1)
    found = fitted_on(tmp_path, images.astype(np.uint8))
    assert found.mean[0] == pytest.approx(123)
    assert found.std[0] == found.std[2] == 1
    assert found.std[1] == pytest.approx(np.arange(200).std())


def ingested(project: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What `ingest` and `validate` leave, with every second sample in a group with the one before."""
    images, labels = digits(count, 0)
    labels = labels.repeat(2)[:count]
    write_dataset(project / "data/ingest", images, labels)
    (project / "data/validate").mkdir(parents=True, exist_ok=True)
    np.save(project / "data/validate/groups.npy", np.arange(count) // 2)
    return images, labels


def test_the_stage_conserves_rows_and_order_and_fits_on_train_only(project: Path) -> None:
    images, labels = ingested(project, 2_400)
    prepare.run()
    names = {identity: row for row, identity in enumerate(identities(images).tolist())}
    seen: list[int] = []
    for name in SPLITS:
        dataset = Dataset(OUTPUT / name)
        assert dataset.spec == read_spec(project / "data/ingest")
        rows = [names[identity] for identity in dataset.column("id").tolist()]
        assert rows == sorted(rows), "the order of the ingested samples is kept"
        np.testing.assert_array_equal(dataset.column("image"), images[rows])
        np.testing.assert_array_equal(dataset.column("label"), labels[rows])
        seen += rows
    assert sorted(seen) == list(range(2_400)), "every row once"
    train = np.array(Dataset(OUTPUT / "train").column("image"))
    transform = Transform.model_validate_json((OUTPUT / "transform" / "transform.json").read_text())
    assert 1_200 < len(train) < 2_000
    assert transform.mean[0] == pytest.approx(train.mean(), rel=1e-12)
    assert transform.std[0] == pytest.approx(train.std(), rel=1e-9)
    assert transform.mean[0] != pytest.approx(images.mean(), rel=1e-7), "the whole set's mean is another"


def test_the_stage_obeys_its_seed(project: Path) -> None:
    ingested(project, 600)
    found = []
    for seed in (1, 1, 2):
        set_params(project, {"seed": seed})
        prepare.run()
        found.append(np.array(Dataset(OUTPUT / "test").column("id")).tobytes())
    assert found[0] == found[1] != found[2]


def labelled(folder: Path, labels: list[int]) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 4, 4), dtype=np.uint8)
    return write_dataset(folder, images, np.array(labels), ("cat", "dog"))


def test_the_drift_is_of_a_class_s_share_of_a_split(tmp_path: Path) -> None:
    """Dogs are 4 of 10, and 1 of train's 5, 1 of val's 2, 2 of test's 3: test's is 0.267 too large."""
    dataset = labelled(tmp_path, [0, 0, 0, 0, 1, 0, 1, 0, 1, 1])
    split = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
    assert "differs from the whole's by 0.267 at most" in prepare.class_drift(dataset, split)


def test_a_class_of_few_samples_in_a_split_is_warned_of(tmp_path: Path) -> None:
    """Train is not judged by: one dog there is no matter."""
    dataset = labelled(tmp_path, [0] * 9 + [1] * 6)
    split = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 1, 1, 1, 2, 2])
    said = prepare.few_of_a_class(dataset, split)
    assert "fewer than 3 samples" in said
    assert "by chance: 'dog' has 2 in test; add samples, or raise prepare.val or prepare.test" in said
    split[9] = 2
    assert prepare.few_of_a_class(dataset, split) == ""


def test_the_stage_prints_its_warning(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = labelled(project / "data/ingest", [0] * 200 + [1] * 3)
    (project / "data/validate").mkdir(parents=True)
    np.save(project / "data/validate/groups.npy", np.arange(len(dataset)))
    prepare.run()
    assert "'dog' has 1 in val, 'dog' has 1 in test;" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's record of peak memory")
def test_memory_does_not_grow_with_the_data(project: Path) -> None:
    """12,288 more samples of 3.1 KB are 38 MB of pixels; their ids, labels and groups are 3 MB."""
    took = []
    (project / "data/validate").mkdir(parents=True)
    for count in (4_096, 16_384):
        images = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        write_dataset(project / "data/ingest", images, np.arange(count) % 10)
        np.save(project / "data/validate/groups.npy", np.arange(count))
        took.append(peak(project, "prepare"))
    assert sum(len(Dataset(OUTPUT / name)) for name in SPLITS) == 16_384
    assert took[1] - took[0] < 14, took
