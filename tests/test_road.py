"""The whole road, for real: a copy of the project, `make repro`, and what a user does next."""

from __future__ import annotations

import base64
import json
import re
import socket
import sqlite3
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from tests.code import STAGES
from tests.road import Road

pytestmark = pytest.mark.slow


def test_every_stage_ran_and_the_summary_says_where_to_look(road: Road) -> None:
    log = (road.folder / "first.log").read_text()
    for stage in STAGES:
        assert re.search(rf"^{stage}: done in", log, re.M), stage
        assert any((road.folder / "data" / stage).iterdir()), stage
    assert "promoted" in log
    accuracy = road.json("data/evaluate/metrics.json")["accuracy"]
    assert f"{accuracy['value']:.4f}" in log
    assert f"{accuracy['low']:.4f} to {accuracy['high']:.4f}" in log
    for hint in ("report.html", "make ui", "http://127.0.0.1:8080/predictions/mnist"):
        assert hint in log
    assert accuracy["value"] > 0.8


def test_a_second_run_does_nothing_and_says_so(road: Road) -> None:
    before = road.digest("data")
    again = road.make("repro")
    assert "up to date" in again.stdout + again.stderr
    assert "Running stage" not in again.stdout
    assert road.digest("data") == before


def test_serving_and_tracking_settings_rerun_nothing(road: Road) -> None:
    before = (road.folder / "params.yaml").read_text()
    road.set({"server": {"inference_port": 9001}, "tracking": {"experiment": "x"}, "compute": {"threads": 1}})
    assert "up to date" in road.run("dvc", "status").stdout
    road.set({"train": {"lr": 0.001}})
    assert set(json.loads(road.run("dvc", "status", "--json").stdout)) == {"tune", "train"}
    (road.folder / "params.yaml").write_text(before)


def test_the_run_in_mlflow_holds_everything(road: Road) -> None:
    run_id = road.json("data/train/run.json")["run_id"]
    store = sqlite3.connect(road.folder / "mlflow.db")

    def rows(table: str, columns: str, run: str = run_id) -> list[tuple]:  # type: ignore[type-arg]
        return store.execute(f"select {columns} from {table} where run_uuid = ?", (run,)).fetchall()  # noqa: S608

    params = dict(rows("params", "key, value"))
    best = road.folder / "data" / "tune" / "best.yaml"
    assert f"train.lr: {params['train.lr']}" in best.read_text()
    assert params["prepare.val"] == "0.15"
    steps = [step for key, step in rows("metrics", "key, step") if key == "val_loss"]
    assert sorted(steps) == [0, 1]
    names = {key for (key,) in rows("metrics", "key")}
    assert any(name.startswith("system/cpu") for name in names)
    assert {"test_accuracy", "test_accuracy_low", "test_accuracy_high", "serving_p50_ms"} <= names
    assert {"joules", "energy_joules", "energy_kwh", "carbon_kg"} <= names
    tags = dict(rows("tags", "key, value"))
    head = road.run("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    assert tags["mlflow.source.git.commit"] == head
    assert len(tags["dvc.lock.sha256"]) == 64
    inputs = store.execute(
        "select d.digest from inputs i join datasets d on d.dataset_uuid = i.source_id where i.destination_id = ?",
        (run_id,),
    ).fetchall()
    digest = road.json("data/train/run.json")["data"]
    assert len(inputs) == 2
    assert len(digest) == 64
    artifacts = {p.relative_to(road.folder).as_posix() for p in (road.folder / "mlartifacts").rglob("*")}
    assert any(name.endswith(f"{run_id}/artifacts/plots/confusion.png") for name in artifacts)
    parents = store.execute("select value, run_uuid from tags where key = 'mlflow.parentRunId'").fetchall()
    assert len(parents) == 2
    assert len({parent for parent, _ in parents}) == 1
    spent = dict(rows("metrics", "key, value", parents[0][0]))["energy_joules"]
    trials = [dict(rows("metrics", "key, value", child))["joules"] for _, child in parents]
    assert spent == pytest.approx(sum(trials))  # of one epoch each
    for page in ("data/export/bundle/README.md", "data/promote/report.html"):
        assert "Energy of the training" in (road.folder / page).read_text()


@pytest.fixture
def ports(road: Road) -> dict[str, int]:
    from serving.process import free_ports

    chosen = free_ports()
    road.set({"server": {**chosen, "workers": 1}})
    return chosen


def test_serve_predict_and_stop(road: Road, ports: dict[str, int]) -> None:
    up = road.make("serve")
    assert f"http://127.0.0.1:{ports['inference_port']}/predictions/mnist" in up.stdout
    try:
        assert "already running" in road.make("serve").stdout
        golden = road.json("data/export/bundle/golden/golden.json")["requests"]
        names = [f"data/export/bundle/golden/{request['file']}" for request in golden]
        told = road.run("fairlead", "predict", "--json", *names).stdout.splitlines()
        answers = [json.loads(line) for line in told]
        assert [answer["label"] for answer in answers] == [request["label"] for request in golden]
        for answer, request in zip(answers, golden, strict=True):
            for name, expected in request["probabilities"].items():
                assert answer["probabilities"][name] == pytest.approx(expected, abs=1e-5)
        _ask_as_the_readme_does(road, ports["inference_port"], names[0], golden[0]["label"])
        bad = road.run("fairlead", "predict", "README.md", names[0], check=False)
        assert bad.returncode == 1
        assert "not a PNG or JPEG" in bad.stderr
        assert golden[0]["label"] in bad.stdout
    finally:
        pid = road.json(".fairlead/server/server.json")["pid"]
        assert "stopped" in road.make("stop").stdout
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", ports["inference_port"])) != 0
    assert not (road.folder / ".fairlead" / "server" / "key_file.json").exists()
    gone = road.run("fairlead", "predict", names[0], check=False)
    assert gone.returncode == 1
    assert "make serve" in gone.stderr


def _ask_as_the_readme_does(road: Road, port: int, name: str, label: str) -> None:
    token = road.json(".fairlead/server/key_file.json")["inference"]["key"]
    url = f"http://127.0.0.1:{port}/predictions/mnist"
    raw = (road.folder / name).read_bytes()
    headers = {"Authorization": f"Bearer {token}"}
    png = httpx.post(url, content=raw, headers={**headers, "Content-Type": "image/png"})
    sent = httpx.post(url, json={"image": base64.b64encode(raw).decode()}, headers=headers)
    for answer in (png.json(), sent.json()):
        assert answer["label"] == label
        assert answer.keys() == {"label", "probabilities", "model_version", "request_id"}
    assert httpx.post(url, content=raw).status_code in (400, 401, 403)


def test_a_port_in_use_is_named(road: Road, ports: dict[str, int]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["inference_port"]))
        taken.listen()
        done = road.make("serve", check=False)
    assert done.returncode != 0
    assert f"port {ports['inference_port']} is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dead_mlflow_server_is_told_before_anything_runs(road: Road) -> None:
    before = road.digest("data/train")
    words = ["env", "MLFLOW_TRACKING_URI=http://127.0.0.1:9", "python", "-m", "pipeline.train"]
    done = road.run(*words, check=False, seconds=120)
    assert done.returncode == 1
    assert "MLflow server at http://127.0.0.1:9 does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert road.digest("data/train") == before


def test_the_validation_page_and_report_open_without_a_server(road: Road) -> None:
    for page in ("data/validate/index.html", "data/promote/report.html"):
        text = (road.folder / page).read_text()
        assert text.count("data:image/png;base64,") >= 5
        assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)


def test_make_help_names_every_target(road: Road) -> None:
    told = road.make("help").stdout
    for target in re.findall(r"^([a-z]+):", (road.folder / "Makefile").read_text(), re.M):
        assert f"make {target} " in told


def test_clean_leaves_the_registry(road: Road, tmp_path: Path) -> None:
    other = road.copy(tmp_path / "road")
    other.make("clean")
    assert not (other.folder / "data" / "ingest").exists()
    assert (other.folder / "data" / "README.md").exists()
    assert (other.folder / "mlflow.db").exists()
    back: subprocess.CompletedProcess[str] = other.run("dvc", "checkout", "--force")
    assert (other.folder / "data" / "train" / "weights.safetensors").exists(), back.stdout
