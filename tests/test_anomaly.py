"""Anomalies: what is normal comes from a parameter, training sees nothing else, and the alarm is where it was put."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from models.params import Model
from models.served import Served, load, save
from pipeline import anomaly
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.export import export_graphs
from pipeline.fitting.augmentation import Augmentation
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train, fit
from pipeline.sources import Data, open_source
from pipeline.splits import judged_alone
from serving.inputs.spec import Column, DataSpec, TableField, TableInput, Transform
from serving.predictor import BACKENDS, Predictor, named, numbers
from tests.conftest import digits, spec_of, write_dataset

IMAGE = spec_of((1, 28, 28), ("normal", "anomaly")).model_copy(update={"task": "anomaly"})
TABLE = DataSpec(
    modality="table", task="anomaly", source="test", classes=("normal", "anomaly"),
    columns=(Column(name="row", role="input", dtype="<f4", shape=(3,)),
             Column(name="label", role="target", dtype="<i8"), Column(name="id", role="id", dtype="|S64")),
    table=TableInput(fields=(TableField(name="a", kind="number"), TableField(name="b", kind="number"),
                             TableField(name="c", kind="category", categories=("x", "y")))),
)  # fmt: skip
SCALES = {
    "image": Transform(mean=(60.0,), std=(70.0,)),
    "table": Transform(mean=(0.0, 1.0), std=(1.0, 2.0), known=((True, True, False),)),
}


def test_classes_become_normal_and_anomaly() -> None:
    source = open_source(Data(source="mnist", task="anomaly", normal=("0", "7")))
    assert (source.spec.task, source.spec.classes, len(source)) == ("anomaly", ("normal", "anomaly"), 5000)
    labels = np.concatenate([chunk.columns["label"] for chunk in source.chunks(512, [])])
    assert np.bincount(labels).tolist() == [1000, 4000]


@pytest.mark.parametrize(
    ("normal", "told"),
    [((), "must name some of the 10 classes and not all"), (("00",), "no class '00'; did you mean '0'?"),
     (tuple("0123456789"), "and not all")],
)  # fmt: skip
def test_what_is_normal_must_be_some_classes(normal: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError) as error:
        open_source(Data(source="mnist", task="anomaly", normal=normal))
    assert told in str(error.value)


def test_no_anomaly_is_trained_on_and_the_rest_stays() -> None:
    draw = np.random.default_rng(0)
    split, labels = draw.integers(0, 3, 500).astype(np.uint8), draw.integers(0, 2, 500)
    ids = np.array([f"{at:064}" for at in range(500)], "S64")
    found = judged_alone(split.copy(), ids, labels, 7)
    moved = (split == 0) & (labels == 1)
    assert np.array_equal(found[~moved], split[~moved])
    counts = np.bincount(found[moved], minlength=3)
    assert counts[0] == 0
    assert min(counts[1:]) > 0.35 * moved.sum()


def job_of(folder: Path, **model: object) -> Job:
    """Normal: one pattern; anomalies: another."""
    images, labels = digits(180, 0, 2)
    normal, other = images[labels == 0], images[labels == 1]
    write_dataset(folder / "train", normal[:60], np.zeros(60, np.int64), IMAGE.classes)
    mixed = np.concatenate([normal[60:], other[:30]])
    write_dataset(folder / "val", mixed, np.repeat([0, 1], [30, 30]), IMAGE.classes)
    params = Model.model_validate({"family": "autoencoder", "width": 8, "dropout": 0.0, "latent": 4, **model})
    train = Train(max_epochs=25, batch_size=16, lr=0.005, patience=0, augmentation=Augmentation(strength=0))
    return Job(params, train, IMAGE, SCALES["image"], folder / "train", folder / "val", 3, Compute())


@pytest.mark.parametrize("variational", [False, True])
def test_a_fitted_autoencoder_tells_what_it_never_saw(tmp_path: Path, variational: bool) -> None:
    job = job_of(tmp_path, variational=variational)
    scores: list[float] = []
    served = fit(job, [lambda epoch, metrics: scores.append(metrics["val_score"])])
    val = Dataset(job.val_folder)
    with torch.inference_mode():
        outputs = served(torch.from_numpy(np.array(val.inputs))).numpy()
    normal = outputs[val.targets == 0, 0]
    auc = roc_auc_score(val.targets, outputs[:, 0])
    assert auc > 0.95
    assert scores[-1] == pytest.approx(auc, abs=1e-6)
    assert (normal <= 1).mean() == pytest.approx(0.95, abs=0.05), "the alarm is where normal_share puts it"


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("spec", [IMAGE, TABLE], ids=["image", "table"])
def test_every_backend_gives_the_same_score_and_embedding(
    tmp_path: Path, spec: DataSpec, variational: bool
) -> None:
    torch.manual_seed(0)
    transform = SCALES[spec.modality]
    params = Model(family="autoencoder", width=8, depth=2, latent=3, variational=variational)
    served = Served(params, spec, transform).eval()
    served.net.threshold.fill_(0.37)
    save(served, params, spec, transform, tmp_path)
    export_graphs(load(tmp_path), spec.input, tmp_path)
    rows = digits(5, 1)[0] if spec.image else np.array(
        [[1, 2, 1], [np.nan, 0.5, 0], [0, 1, 2], [3, -1, 1], [0.1, 0.2, 2]], np.float32
    )  # fmt: skip
    answers = {name: Predictor(tmp_path, name).outputs(rows) for name in BACKENDS}
    assert answers["eager"].shape == (5, 4)
    for found in answers.values():
        assert np.allclose(found, answers["eager"], atol=1e-5)


def test_an_answer_says_score_alarm_and_embedding() -> None:
    row = np.array([1.25, 0.5, -2.0], np.float32)
    answer = named(IMAGE, row)
    assert answer == {"anomaly": True, "score": 1.25, "embedding": [0.5, -2.0]}
    assert numbers(IMAGE, answer) == row.tolist()
    assert named(IMAGE, np.array([1.0, 0.0], np.float32))["anomaly"] is False


def test_metrics_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(4)
    labels = draw.integers(0, 2, 400)
    outputs = np.stack([draw.gamma(2, 0.4, 400) + 0.4 * labels, draw.normal(size=400)], axis=1)
    weights = draw.integers(0, 4, (3, 400)).astype(np.float32)
    for at, weight in enumerate(weights):
        auc = roc_auc_score(labels, outputs[:, 0], sample_weight=weight)
        precision = average_precision_score(labels, outputs[:, 0], sample_weight=weight)
        assert anomaly.roc_auc(weights, labels, outputs)[at] == pytest.approx(auc, abs=1e-6)
        assert anomaly.average_precision(weights, labels, outputs)[at] == pytest.approx(precision, abs=1e-6)
    ones = np.ones((1, 400))
    alarms = outputs[:, 0] > 1
    assert anomaly.recall(ones, labels, outputs)[0] == pytest.approx(alarms[labels == 1].mean())
    assert anomaly.false_alarms(ones, labels, outputs)[0] == pytest.approx(alarms[labels == 0].mean())


def test_family_and_task_belong_together() -> None:
    with pytest.raises(
        ValueError, match="'cnn' does not fit anomaly of modality 'image'; expected one of autoencoder"
    ):
        Served(Model(family="cnn"), IMAGE, SCALES["image"])
    with pytest.raises(ValueError, match="'autoencoder' does not fit classification"):
        Served(Model(family="autoencoder"), spec_of((1, 28, 28), ("a", "b")), SCALES["image"])
