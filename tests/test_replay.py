"""`fairlead replay`: a version is made again bit for bit, and what was changed since is told, never passed over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline import mlflow_store, origin, tracking
from pipeline.core.params import UserError, validate
from pipeline.replay import FACTS, Outcome, judged, recorded, replay
from pipeline.replay_clone import OURS, SCRATCH, UNLIMITED, clone, command, lay_data, scratch, write_params
from pipeline.tuning.settings import Tune
from tests.project import ROOT
from tests.recipes import standing_in
from tests.road import Road

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mine(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Road:
    return road.copy(tmp_path_factory.mktemp("replay") / "road")


@pytest.fixture
def inside(mine: Road) -> Iterator[Road]:
    with standing_in(mine.folder, "sqlite:///mlflow.db"):
        yield mine


@pytest.fixture(scope="module")
def again(mine: Road) -> Outcome:
    """The first version of the road, made anew; its clone is kept."""
    with standing_in(mine.folder, "sqlite:///mlflow.db"):
        return replay("1", "evaluate", False, True, print)


def test_a_version_is_made_again_bit_for_bit(again: Outcome, inside: Road) -> None:
    assert again.same, again.verdict
    assert again.verdict.startswith("the same, bit for bit")
    assert again.version == inside.json("data/promote/receipt.json")["model_version"]
    assert len(again.metrics) >= 5
    assert all(entry["within"] for entry in again.metrics.values())
    assert again.place is not None
    made = again.place / "data" / "train" / "weights.safetensors"
    assert made.stat().st_ino != (inside.folder / "data/train/weights.safetensors").stat().st_ino
    assert (again.place / "mlflow.db").exists()
    assert inside.run("git", "status", "--porcelain").stdout == ""


def test_other_weights_are_not_the_same(again: Outcome, inside: Road) -> None:
    assert again.place is not None
    weights = again.place / "data" / "train" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    facts = json.loads(command(again.place, "-c", FACTS, quiet=True))
    with scratch(lambda: False) as folder:
        wanted = recorded("mnist", "1", folder)
    assert facts["machine"] == wanted.machine
    metrics = dict(wanted.metrics)
    assert "NOT the same" in judged(wanted, facts, metrics).verdict
    other = {**facts, "machine": "another"}
    told = judged(wanted, other, metrics)
    assert told.same
    assert "the same within the intervals" in told.verdict
    assert not judged(wanted, other, {}).same
    name = next(iter(again.metrics))
    moved = {**metrics, name: {"value": metrics[name]["low"] - 0.01}}
    assert f"{len(again.metrics) - 1} of {len(again.metrics)}" in judged(wanted, other, moved).verdict
    assert not judged(wanted, other, moved).same


def test_what_was_changed_since_is_refused(inside: Road) -> None:
    run = tracking.Run(inside.json("first.json")["run_id"])
    before = dict(mlflow_store.client().get_run(run.id).data.tags)
    for tag, value, reason in [
        ("best.sha256", "0" * 64, f"{origin.BEST} of run {run.id} was changed since"),
        ("params.sha256", "0" * 64, "params.yaml of run"),
        ("git.modified", "true", "no patch of them"),
        ("mlflow.source.git.commit", "none", "outside of a git repository"),
        ("mlflow.source.git.commit", "0" * 40, "is not in this repository"),
    ]:
        run.tags({tag: value})
        with pytest.raises(UserError, match=reason):
            replay("1", "evaluate", False, False, lambda _: None)
        run.tags({tag: before[tag]})
    assert [path for path in SCRATCH.iterdir() if not path.name.startswith("kept-")] == []


def test_changed_raw_data_give_way_to_what_was_ingested(inside: Road, tmp_path: Path) -> None:
    digest = inside.digest("data/ingest")
    (inside.folder / "data/raw/new.txt").write_text("not there at the training")
    wanted = recorded("mnist", "1", tmp_path)
    project = clone(wanted.commit, wanted.patch, tmp_path)
    write_params(project, wanted.files["params.yaml"], {}, False)
    said: list[str] = []
    assert lay_data(project, wanted.files["promote/dvc.lock"], said.append)[0] == "validate"
    assert "data/raw" in said[0]
    assert Road.digest(type("At", (), {"folder": project})(), "data/ingest") == digest  # type: ignore[arg-type]
    (inside.folder / "data/raw/new.txt").unlink()
    (project / "pipeline/core/stage.py").write_text("# other code\n")
    assert lay_data(project, wanted.files["promote/dvc.lock"], said.append)[0] == "ingest"
    assert said[-1].startswith("dvc.lock records other code than the commit has: pipeline/core")


def test_ctrl_c_leaves_nothing(mine: Road) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits none
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "replay", "1"], cwd=mine.folder, env=mine.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    folder, deadline = mine.folder / SCRATCH / str(process.pid), time.monotonic() + 120
    while not (folder / "clone/data/ingest").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in told
    assert "interrupted; the clone is removed" in told
    assert not folder.exists()
    assert psutil.wait_procs(children, 10)[1] == []


def test_the_patch_holds_all_that_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout

    monkeypatch.chdir(tmp_path)
    assert origin.patch() == b""
    git("init", "-q")
    assert origin.patch() == b""
    (tmp_path / "pipeline").mkdir()
    for name in ("pipeline/a.py", "params.yaml", "dvc.lock", "data.txt"):
        (tmp_path / name).write_text("1\n")
    git("add", "-A")
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start")
    (tmp_path / "params.yaml").write_text("2\n")
    (tmp_path / "dvc.lock").write_text("2\n")
    (tmp_path / "untracked.txt").write_text("2\n")
    assert origin.patch() == b""
    (tmp_path / "pipeline/a.py").write_bytes(b"\x00\xff2\n")
    (tmp_path / "pipeline/new.py").write_text("2\n")
    before = git("status", "--porcelain")
    changes = origin.patch()
    assert git("status", "--porcelain") == before
    origin.lineage.cache_clear()
    tags = origin.lineage()
    origin.lineage.cache_clear()
    assert tags["git.modified"] == "true"
    assert len(tags["git.patch.sha256"]) == 64
    project = clone(git("rev-parse", "HEAD").strip(), changes, tmp_path / ".fairlead")
    assert (project / "pipeline/a.py").read_bytes() == b"\x00\xff2\n"
    assert (project / "pipeline/new.py").read_text() == "2\n"
    assert (project / "params.yaml").read_text() == "1\n"


def test_the_clone_s_parameters_are_the_run_s_with_stores_of_its_own(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("path: data/raw", "path: ../raw")
    text = text.replace("uri: sqlite:///mlflow.db", "uri: http://store:5000")
    given = yaml.safe_load(text)
    for search in (False, True):
        write_params(tmp_path, text, {"trials": 5}, search)
        written = yaml.safe_load((tmp_path / "params.yaml").read_text())
        assert written["tracking"] == {**given["tracking"], **OURS}
        assert written["data"]["path"] == str(Path("../raw").resolve())
        tune = {**given["tune"], "trials": 5, "minutes": UNLIMITED} if search else given["tune"]
        assert written["tune"] == tune
        assert {key: written[key] for key in ("model", "train", "seed")} == {
            key: given[key] for key in ("model", "train", "seed")
        }
    validate(Tune, written["tune"], "tune")
