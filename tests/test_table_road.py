"""A table on the whole road: loan applications, asked from a real TorchServe as JSON and as CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.report import write_report
from pipeline.summary import show
from tests.project import ROOT, Project
from tests.recipes import standing_in, walk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loans(tmp_path_factory: pytest.TempPathFactory, runs: str) -> Project:
    recipe = ROOT / "recipes" / "loanapp.yaml"
    changes = {"train": {"max_epochs": 4}, "tune": {"trials": 2, "max_epochs": 1}}
    return walk(tmp_path_factory.mktemp("loans"), recipe, runs, changes)


def test_the_road_ends_with_a_certified_model(loans: Project) -> None:
    receipt = loans.json("data/promote/receipt.json")
    assert receipt["verdict"] == "promoted"
    assert receipt["compared"]["metric"] == "roc_auc"
    compared = {entry["backend"]: entry for entry in receipt["certified"]["comparisons"]}
    assert all(entry["same"] for entry in compared.values())
    assert compared["torchserve, golden requests"]["samples"] == 17, "16 rows, the first as CSV too"
    assert loans.json("data/evaluate/metrics.json")["classes"].keys() == {"approved", "rejected"}


def test_the_live_server_was_asked_with_json_and_csv(loans: Project) -> None:
    requests = loans.json("data/export/bundle/golden/golden.json")["requests"]
    asked = [request["content_type"] for request in requests]
    assert asked[:2] == ["application/json", "text/csv"]
    assert requests[0]["probabilities"] == requests[1]["probabilities"]
    first = (loans.folder / "data/export/bundle/golden" / requests[1]["file"]).read_text().splitlines()
    assert len(first) == 2
    assert not {"reject", "approve", "white"} & set(first[0].split(","))


def test_the_splits_share_no_row_and_training_alone_made_the_transform(loans: Project) -> None:
    parts = {name: loans.folder / "data/prepare" / name for name in ("train", "val", "test")}
    ids = {name: set(np.load(path / "id.npy")) for name, path in parts.items()}
    assert not ids["train"] & ids["val"]
    assert not ids["train"] & ids["test"]
    assert not ids["val"] & ids["test"]
    rows = np.load(parts["train"] / "row.npy").astype(np.float64)
    transform = loans.json("data/prepare/transform/transform.json")
    mean = np.nanmean(rows[:, : len(transform["mean"])], axis=0)
    np.testing.assert_allclose(transform["mean"], mean, rtol=1e-6, atol=1e-9)
    folds = [path.parent for path in (loans.folder / "data").rglob("folds/*/**/id.npy")]
    assert len(folds) == 5 * 3, "train and val of prepare, and what augment made of each train"
    for fold in folds:
        assert not set(np.load(fold / "id.npy")) & ids["test"]
        assert set(np.load(fold / "id.npy")) <= ids["train"] | ids["val"]


def test_trials_were_cross_validated(loans: Project) -> None:
    with (loans.folder / "data/tune/trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert len(trials) == 2
    assert all(float(trial["val_loss_spread"]) > 0 for trial in trials if trial["state"] == "complete")


def test_a_nested_estimate_is_in_the_report_and_the_summary(
    loans: Project, runs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = loans.folder / "data/train/run.json"
    before = note.read_text()
    note.write_text(
        json.dumps({**json.loads(before), "nested": {"val_loss": {"value": 0.3, "low": 0.2, "high": 0.4}}})
    )
    with standing_in(loans.folder, runs):
        write_report(tmp_path / "report.html", loans.json("data/promote/receipt.json"))
        show()
    note.write_text(before)
    page = (tmp_path / "report.html").read_text()
    assert "nested estimate" in page
    assert "0.2000 to 0.4000" in page
    assert "nested estimate" not in (loans.folder / "data/promote/report.html").read_text()
    assert "nested estimate: val_loss 0.3000 (0.2000 to 0.4000)" in capsys.readouterr().out
