"""Folds of cross-validation: even, whole groups, no sample of the test, and what is fitted is fitted within each."""

from __future__ import annotations

import doctest
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.model_selection import StratifiedGroupKFold
from tokenizers import Tokenizer

from pipeline import folds, prepare
from pipeline.core.dataset import Dataset, numbered
from pipeline.core.params import UserError, validate
from pipeline.folds import Folds, dealt
from pipeline.prepare import Prepare
from pipeline.quickcheck import check_known_data
from serving.inputs.spec import Transform, read_json
from tests.conftest import digits, identities, set_params, spec_of
from tests.folding import FOLDS, ids, laid, prepared
from tests.modalities import series_rows, series_spec, table_rows, table_spec, text_rows, text_spec


def ids_of(count: int) -> np.ndarray:
    return identities(np.random.default_rng(0).integers(0, 256, (count, 32), dtype=np.uint8))


def counts_of(fold: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """Samples of each class in each fold, (K, C)."""
    return np.stack([np.bincount(labels[fold == at], minlength=labels.max() + 1) for at in range(number)])


def transform_of(fold: Path) -> Transform:
    return Transform.model_validate_json((fold / "transform" / "transform.json").read_text())


# How samples are dealt


@pytest.mark.parametrize("number", [2, 5, 10])
def test_sizes_and_classes_are_even_to_one_sample(number: int) -> None:
    labels = np.repeat(np.arange(12), [400, 90, 31, 10, 9, 7, 5, 3, 3, 2, 2, 2])
    fold = dealt(ids_of(len(labels)), labels, np.arange(len(labels)), number, 7)
    assert np.ptp(counts_of(fold, labels, number), axis=0).max() == 1 or number == 2
    assert np.ptp(np.bincount(fold)) <= 1


def test_added_samples_move_few_others_and_the_order_of_rows_none() -> None:
    labels, identity = np.arange(1_000) % 4, ids_of(1_000)
    groups = np.arange(1_000)
    whole = dealt(identity, labels, groups, 5, 7)
    fewer = dealt(identity[:980], labels[:980], groups[:980], 5, 7)
    assert 0 < (whole[:980] != fewer).sum() < 60
    assert (whole != dealt(identity, labels, groups, 5, 8)).mean() > 0.7, "the seed decides"
    order = np.random.default_rng(1).permutation(1_000)
    np.testing.assert_array_equal(
        whole[order], dealt(identity[order], labels[order], groups[order] * 7, 5, 7)
    )


def test_groups_stay_whole_and_classes_as_even_as_scikit_learn_makes_them() -> None:
    """Groups of one to thirty samples, most of several classes; over eight draws."""
    spread = []
    for seed in range(8):
        draw = np.random.default_rng(seed)
        groups = np.repeat(np.arange(150), draw.integers(1, 30, 150))
        labels = draw.choice(3, len(groups), p=(0.7, 0.25, 0.05))
        labels[groups < 60] = groups[groups < 60] % 3
        ours = dealt(ids_of(len(groups)), labels, groups, 5, seed)
        assert all(len(set(ours[groups == group].tolist())) == 1 for group in range(150))
        theirs, reference = np.empty_like(ours), StratifiedGroupKFold(5, shuffle=True, random_state=0)
        for at, (_, val) in enumerate(reference.split(labels, labels, groups)):
            theirs[val] = at
        shares = [counts_of(fold, labels, 5) / np.bincount(labels) for fold in (ours, theirs)]
        spread.append([share.std(axis=0).mean() for share in shares])
    mean = np.mean(spread, axis=0)
    assert mean[0] < 1.1 * mean[1], mean


def test_a_group_as_large_as_a_fold_has_one_to_itself() -> None:
    groups = np.append(np.zeros(50, int), np.arange(1, 151))
    fold = dealt(ids_of(200), np.zeros(200, int), groups, 4, 7)
    assert np.bincount(fold).tolist() == [50] * 4
    groups = np.append(np.zeros(120, int), np.arange(1, 61))
    assert sorted(np.bincount(dealt(ids_of(180), np.zeros(180, int), groups, 4, 7))) == [20, 20, 20, 120]


def test_the_examples_hold() -> None:
    assert doctest.testmod(folds).attempted
    assert doctest.testmod(folds).failed == 0


# The stage


def test_every_sample_but_the_tests_validates_once(project: Path) -> None:
    """Whatever is written is what the splits hold, and the test split is in no fold."""
    images, labels = digits(600, 0)
    dataset = laid(project, spec_of((1, 28, 28), "0123456789"), images, labels)
    found = prepared(project, 4, inner=2)
    test, others = (
        set(ids(prepare.OUTPUT / "test")),
        {*ids(prepare.OUTPUT / "train"), *ids(prepare.OUTPUT / "val")},
    )
    assert len(found) == 4
    seen: list[bytes] = []
    for fold in found:
        train, val = ids(fold / "train"), ids(fold / "val")
        assert {*train, *val} == others
        assert len(train) + len(val) == len(others)
        seen += val
        inner = [ids(each / "val") for each in numbered(fold / "inner")]
        assert sorted(itertools.chain(*inner)) == sorted(train), (
            "inner folds divide the training part of theirs"
        )
        for each in numbered(fold / "inner"):
            assert {*ids(each / "train"), *ids(each / "val")} == set(train)
    assert sorted(seen) == sorted(others)
    names = {identity: row for row, identity in enumerate(np.array(dataset.column("id")).tolist())}
    for folder in FOLDS.rglob("spec.json"):
        assert not test & set(ids(folder.parent))
        rows = [names[identity] for identity in ids(folder.parent)]
        np.testing.assert_array_equal(Dataset(folder.parent).inputs, images[rows])
        np.testing.assert_array_equal(Dataset(folder.parent).targets, labels[rows])
    assert len(list(FOLDS.rglob("spec.json"))) == 4 * 2 * (1 + 2)
    assert read_json(FOLDS / "folds.json")["scheme"] == "stratified"


def test_the_splits_are_the_same_with_and_without_folds(project: Path) -> None:
    images, labels = digits(300, 0)
    laid(project, spec_of((1, 28, 28), "0123456789"), images, labels)
    assert prepared(project, 0) == []
    assert read_json(FOLDS / "folds.json") == {"number": 0}
    assert [path.name for path in FOLDS.iterdir()] == ["folds.json"]
    before = {name: (prepare.OUTPUT / name / "id.npy").read_bytes() for name in prepare.SPLITS}
    prepared(project, 3)
    assert {name: (prepare.OUTPUT / name / "id.npy").read_bytes() for name in prepare.SPLITS} == before


@pytest.mark.parametrize("scheme", ["plain", "stratified", "grouped", "auto"])
def test_copies_and_groups_never_straddle(project: Path, scheme: str) -> None:
    draw = np.random.default_rng(0)
    copies, group = np.arange(600), np.arange(600) // 6
    copies[5::12] = copies[6::12]  # joins every second group with the next
    dataset = laid(
        project, table_spec("ab"), table_rows(600, 3), draw.integers(0, 2, 600), copies, group=group
    )
    where = dict(zip(np.array(dataset.column("id")).tolist(), zip(copies, group, strict=True), strict=True))
    for fold in prepared(project, 3, scheme=scheme, inner=2):
        for each in (fold, *numbered(fold / "inner")):
            train, val = ([where[identity] for identity in ids(each / name)] for name in ("train", "val"))
            for by in (0, 1):
                assert not {groups[by] for groups in train} & {groups[by] for groups in val}


def test_time_moves_forward_and_groups_with_their_last_sample(project: Path) -> None:
    time = np.random.default_rng(1).permutation(400).astype(float)
    copies = np.arange(400)
    early, late = np.argsort(time)[10], np.argsort(time)[200]
    copies[late] = copies[early]
    laid(project, table_spec("abc"), table_rows(400, 3), np.arange(400) % 3, copies, time=time)
    found = prepared(project, 4)
    assert read_json(FOLDS / "folds.json")["scheme"] == "time"
    before: list[bytes] = []
    for fold in found:
        train, val = Dataset(fold / "train"), Dataset(fold / "val")
        assert np.array(train.column("time")).max() <= np.sort(np.array(val.column("time")))[2]
        assert set(ids(fold / "train")) >= set(before), "the window expands"
        assert len(val) == pytest.approx(68, abs=3)
        before = [*ids(fold / "train"), *ids(fold / "val")]
    assert set(before) == {*ids(prepare.OUTPUT / "train"), *ids(prepare.OUTPUT / "val")}
    assert max(np.array(Dataset(found[-1] / "val").column("time"))) < min(
        np.array(Dataset(prepare.OUTPUT / "test").column("time"))
    )


def test_windows_that_overlap_are_kept_apart(project: Path) -> None:
    """No target of training is a target of validation, within every fold."""
    begin = np.arange(300.0)
    spec, targets = (
        series_spec((), ("next",)),
        np.random.default_rng(0).normal(size=(300, 1)).astype(np.float32),
    )
    laid(project, spec, series_rows(300, 1), targets, time=begin + 5, begin=begin)
    for fold in prepared(project, 3, inner=2):
        for each in (fold, *numbered(fold / "inner")):
            train, val = Dataset(each / "train"), Dataset(each / "val")
            assert max(train.column("time")) < min(val.column("begin"))
            assert len(val) > 10
    with pytest.raises(UserError, match="'plain' would train on windows that overlap"):
        prepared(project, 3, scheme="plain")


def test_a_given_split_keeps_its_test(project: Path) -> None:
    given = np.random.default_rng(2).integers(0, 3, 300).astype(np.uint8)
    dataset = laid(project, table_spec("abc"), table_rows(300, 3), np.arange(300) % 3, split=given)
    identity = np.array(dataset.column("id"))
    for fold in prepared(project, 3):
        assert {*ids(fold / "train"), *ids(fold / "val")} == set(identity[given < 2].tolist())


def test_training_parts_hold_no_anomaly(project: Path) -> None:
    labels = (np.arange(300) % 10 == 0).astype(np.int64)
    spec = table_spec(("normal", "anomaly")).model_copy(update={"task": "anomaly"})
    laid(project, spec, table_rows(300, 3), labels)
    held = []
    for fold in prepared(project, 3):
        assert not Dataset(fold / "train").targets.any()
        held.append(int(Dataset(fold / "val").targets.sum()))
    assert sum(held) == Dataset(prepare.OUTPUT / "val").targets.sum()
    assert max(held) - min(held) <= 1


def test_a_regression_has_plain_folds(project: Path) -> None:
    targets = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    laid(project, table_spec((), "xy"), table_rows(300, 3), targets)
    for fold in prepared(project, 3):
        mean = Dataset(fold / "train").targets.astype(float).mean(axis=0)
        np.testing.assert_allclose(transform_of(fold).target_mean, mean, rtol=1e-9)
    with pytest.raises(
        UserError, match="'stratified' needs classes, and the task is regression; set it to 'auto'"
    ):
        prepared(project, 3, scheme="stratified")


# What is fitted


def test_an_outlier_is_known_to_the_folds_that_train_on_it_alone(project: Path) -> None:
    """Also a category: `known` has it in no fold that validates on it."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(200, 6)).astype(np.float32)
    rows[:, 4:] = 1
    laid(project, table_spec("ab"), rows, np.arange(200) % 2)
    prepared(project, 4)
    outlier = ids(FOLDS / "2" / "val")[0]
    at = np.array(Dataset(prepare.INPUT).column("id")).tolist().index(outlier)
    rows[at, 0], rows[at, 4] = 1e6, 5
    identity = np.array(Dataset(prepare.INPUT).column("id"))
    laid(project, table_spec("ab"), rows, np.arange(200) % 2)
    np.save(prepare.INPUT / "id.npy", identity)  # or it might fall into another fold
    for number, fold in enumerate(prepared(project, 4)):
        found = transform_of(fold)
        assert (abs(found.mean[0]) > 1_000) == (number != 2)
        assert found.known[0][5] == (number != 2)
        train = Dataset(fold / "train").inputs.astype(float)
        np.testing.assert_allclose(found.mean, train[:, :4].mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(found.std, train[:, :4].std(axis=0), rtol=1e-6)


def test_a_tokenizer_knows_no_word_of_its_validation_samples(project: Path) -> None:
    words = ["abcdefghij"[at % 10] + "klmnopqrst"[at // 10 % 10] + "uv"[at // 100] * 2 for at in range(120)]
    texts = [" ".join([word] * 4) for word in words]
    laid(project, text_spec("ab"), text_rows(texts), np.arange(120) % 2)
    by_id = dict(zip(ids(prepare.INPUT), words, strict=True))
    for fold in prepared(project, 3):
        tokenizer = Tokenizer.from_file(str(fold / "transform" / "tokenizer.json"))
        whole = {name: [len(tokenizer.encode(f" {by_id[identity]}").ids) == 1 for identity in ids(fold / name)]
                 for name in ("train", "val")}  # fmt: skip
        assert np.mean(whole["train"]) > 0.9, "a word of training is one token"
        assert not any(whole["val"])
        assert transform_of(fold).tokens == tokenizer.get_vocab_size()


def test_scaling_of_series_is_of_each_fold(project: Path) -> None:
    laid(project, series_spec("ab"), series_rows(200, 1), np.arange(200) % 2)
    means = set()
    for fold in prepared(project, 3):
        values = np.asarray(Dataset(fold / "train").inputs.values, dtype=float)
        np.testing.assert_allclose(transform_of(fold).mean, np.nanmean(values, axis=0), rtol=1e-6)
        means.add(transform_of(fold).mean)
    assert len(means) == 3


# What is refused


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"number": 1}, "number is 1, which leaves nothing to hold out"),
        ({"number": 3, "inner": 1}, "inner is 1"),
        ({"inner": 3}, "inner is 3, and there are no folds for them to lie in"),
        ({"number": 51}, "at most 50"),
        ({"scheme": "random"}, "'auto', 'plain', 'stratified', 'grouped' or 'time'"),
    ],
)
def test_wrong_numbers_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        validate(Prepare, {"folds": given}, "prepare")


@pytest.mark.parametrize(
    ("folds", "reason"),
    [
        ({"scheme": "time"}, "'time' needs a column of times, which data.time names; set it to 'auto'"),
        ({"scheme": "grouped"}, "'grouped' needs a column of groups, which data.group names"),
        (
            {"number": 3, "inner": 50},
            "of fold 0 the inner fold .* of 50 has no samples to validate on; set fewer folds",
        ),
        ({"number": 50}, "fold .* of 50 has no samples to validate on"),
    ],
)
def test_folds_that_the_data_do_not_allow_are_refused_and_leave_what_was(
    project: Path, folds: dict[str, Any], reason: str
) -> None:
    laid(project, table_spec("ab"), table_rows(40, 3), np.arange(40) % 2)
    prepared(project, 2)
    before = sorted(path.as_posix() for path in Path("data").rglob("*"))
    with pytest.raises(UserError, match=reason):
        prepared(project, **folds)
    assert sorted(path.as_posix() for path in Path("data").rglob("*")) == before


def test_the_check_tells_a_scheme_that_known_data_do_not_allow(project: Path) -> None:
    laid(project, table_spec("ab"), table_rows(40, 3), np.arange(40) % 2)
    set_params(project, {"prepare.folds": {"number": 3, "scheme": "time", "inner": 0}})
    check_known_data()  # what the data are is not known of another section `data`
    used = {"data": yaml.safe_load(Path("params.yaml").read_text())["data"]}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"ingest": {"params": {"params.yaml": used}}}}))
    with pytest.raises(UserError, match="'time' needs a column of times"):
        check_known_data()
    set_params(project, {"prepare.folds.number": 0})
    check_known_data()


def test_a_class_that_a_training_part_would_miss_is_refused(project: Path) -> None:
    """By time the later class is not there yet; stratified, one group of three is the test's and two train in turn."""
    labels = np.append(np.zeros(150, int), np.arange(150) % 2)
    laid(project, table_spec("ab"), table_rows(300, 3), labels, time=np.arange(300.0))
    with pytest.raises(UserError, match=r"fold 0 of 4 has no training sample of b: no model can learn them"):
        prepared(project, 4)
    labels = (np.arange(300) > 296).astype(np.int64)
    laid(project, table_spec("ab"), table_rows(300, 3), labels)
    assert len(prepared(project, 5)) == 5
    with pytest.raises(UserError, match=r"of fold . the inner fold . of 2 has no training sample of b"):
        prepared(project, 5, inner=2)


def test_a_full_disk_is_told_before_anything_is_written(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid(project, table_spec("ab"), table_rows(40, 3), np.arange(40) % 2)
    usage = shutil.disk_usage(project)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000))
    with pytest.raises(
        UserError, match=r"prepare.folds: 2 folds take 0.0 GB, and 0.0 GB are free; set fewer"
    ):
        prepared(project, 2)


def test_the_section_keeps_its_defaults_free() -> None:
    assert Folds() == Folds(number=0, inner=0)
