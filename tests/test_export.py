"""The bundle and its archive: no pickle, the same bytes for the same model, the same answers from MLflow."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from serving.archive import build_archive
from tests.recipes import refused
from tests.road import Road

pytestmark = pytest.mark.slow


def test_no_pickle_is_shipped(road: Road) -> None:
    shipped = [p for p in (road.folder / "data" / "export").rglob("*") if p.is_file()]
    assert len(shipped) > 10
    for path in shipped:
        parts = {"": path.read_bytes()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                parts = {name: packed.read(name) for name in packed.namelist()}
        for name, content in parts.items():
            assert not re.match(rb"\x80[\x02-\x05]", content), (path, name)
            assert not name.endswith((".pkl", "data.pkl")), (path, name)


def test_the_mlflow_model_answers_as_evaluated(road: Road) -> None:
    code = """
import json, mlflow, pandas as pd
from pathlib import Path
mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = mlflow.pyfunc.load_model("models:/mnist@champion")
golden = Path("data/export/bundle/golden")
requests = [r for r in json.loads((golden / "golden.json").read_text())["requests"] if r["file"].endswith("png")]
table = pd.DataFrame({"image": [(golden / r["file"]).read_bytes() for r in requests]})
answers = model.predict(table)
worst = max(abs(a[k] - r["probabilities"][k]) for a, r in zip(answers["probabilities"], requests) for k in a)
print(json.dumps({"worst": worst, "labels": list(answers["label"]) == [r["label"] for r in requests],
                  "version": answers["model_version"][0], "count": len(requests)}))
"""
    told = json.loads(road.run("python", "-c", code).stdout.splitlines()[-1])
    assert told["worst"] < 1e-4
    assert told["labels"]
    assert told["count"] >= 10
    assert told["version"] == road.json("data/promote/receipt.json")["model_version"]


def test_the_archive_is_the_same_for_the_same_bundle(road: Road, tmp_path: Path) -> None:
    build_archive(road.folder / "data/export/bundle", tmp_path / "again.mar", "mnist")
    assert (tmp_path / "again.mar").read_bytes() == (road.folder / "data/export/mnist.mar").read_bytes()


def test_the_card_tells_what_was_measured(road: Road) -> None:
    card = (road.folder / "data/export/bundle/README.md").read_text()
    metrics = road.json("data/evaluate/metrics.json")
    assert f"| accuracy | {metrics['accuracy']['value']:.4f} |" in card
    assert road.json("data/train/run.json")["run_id"] in card


def test_a_raw_sample_that_changed_since_ingest_is_told(road: Road, tmp_path: Path) -> None:
    other = road.copy(tmp_path / "road")
    manifest = other.folder / "data/ingest/manifest.csv"
    lines = manifest.read_text().splitlines()
    moved = [line.replace(".gz:", ".gz:1") if at else line for at, line in enumerate(lines)]
    manifest.write_text("\n".join(moved) + "\n")
    before = other.digest("data/export")
    told = refused(other, "export")
    assert "ingest anew" in told
    assert other.digest("data/export") == before
